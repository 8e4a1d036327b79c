//! The flags of `p2p-agent`: the one list of settings, for command line, environment and file.

use std::{convert::Infallible, fmt, net::SocketAddr, num::NonZeroU16, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use mesh_chain::{InvalidRpcUrl, RpcUrl};
use mesh_core::{
    agent::OnExpiry,
    development::parse_switch,
    id::{Address, AppId, InstanceId, TokenId},
    network::MeshNetwork,
    place::Domain,
    registration::NetworkType,
};

use super::{ApplicationFlags, DeviceFlags, GatewayFlags, TlsFlags, TunnelChoice};
use crate::api::{Group, UserId};

/// Settings as given; `None` and empty lists take their default in [`super::Config::resolve`].
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The configuration file; default: /etc/p2p-agent/config.toml, where it exists.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// What this node is in the mesh; default: wireguard.
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<Mode>,
    /// The cluster contract; default: this CVM's app id.
    #[arg(long, value_name = "ADDRESS")]
    pub contract: Option<Address>,
    /// An http(s) or ws(s) JSON-RPC endpoint of the contract's chain; repeatable. A URL with an API key belongs into the
    /// configuration file: every process can read the command line.
    #[arg(long, value_name = "URL")]
    pub rpc_url: Vec<UrlText>,
    /// How many RPC endpoints must say the same; default: the majority.
    #[arg(long, value_name = "K")]
    pub rpc_quorum: Option<usize>,
    /// An RPC endpoint of the operator's own (a full node or a light client beside the agent): what it names as the chain's blocks
    /// counts alone, and the others only prove what is in them.
    #[arg(long, value_name = "URL")]
    pub trusted_rpc_url: Option<UrlText>,
    /// Refuse RPC endpoints of any other chain.
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,
    /// Register for this token; default: the one bound to this instance.
    #[arg(long, value_name = "ID")]
    pub token: Option<TokenId>,
    /// Interface name; default: mesh0.
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// UDP port; default: one that follows from the instance id, so that nodes on one host have different ones, or 51821 where
    /// `--endpoint IP:PORT` names where this node is reached.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub listen_port: Option<u16>,
    /// Endpoint to register: IP:PORT, `auto` (the address that leads to the RPC endpoint) or `none`; default: auto.
    #[arg(long, value_name = "IP:PORT|auto|none")]
    pub endpoint: Option<EndpointChoice>,
    /// Base domain of the dstack gateway in front of this CVM, as in DSTACK_GATEWAY_DOMAIN, with the gateway's port where that is not
    /// 443: other nodes then reach this one through the gateway too. The contract must list it as it is here (`meshctl domain add`).
    #[arg(long, value_name = "HOST[:PORT]")]
    pub gateway_domain: Option<Domain>,
    /// With `--mode tls`: the TCP port of the application, which the gateway passes TLS on to and which ends it. Peers get
    /// `https://INSTANCE-PORTs.HOST[:PORT]`. Default: that of the first `--front`, else 443.
    #[arg(long, value_name = "PORT")]
    pub tls_port: Option<NonZeroU16>,
    /// Where the keys and the last verified registry are kept; default: /var/lib/p2p-agent/INTERFACE. With `--mode tls`
    /// /var/lib/p2p-agent/tls for root, and for others $XDG_STATE_HOME/p2p-agent (~/.local/state/p2p-agent where that is not set); with `--tunnel netstack` INTERFACE in that.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the local API; default: /run/p2p-agent/INTERFACE.sock. With `--mode tls` /run/p2p-agent/tls.sock for root, and for
    /// others $XDG_RUNTIME_DIR/p2p-agent/tls.sock. For users other than root, with `--tunnel netstack` INTERFACE.sock in the same directory.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Who may act for this node through the local API (today: cast its vote, which it pays), besides root and the agent's own user:
    /// the members of this group, by name or number. Every user may read. Default: no group.
    #[arg(long, value_name = "GROUP")]
    pub api_group: Option<Group>,
    /// A further user who may do that, by number: for an application in a container, whose users have no names here; repeatable.
    #[arg(long, value_name = "UID")]
    pub allow_vote_uid: Vec<UserId>,
    /// Serves metrics by TCP too, at http://ADDR:PORT/metrics, to every caller that reaches it. Default: on the socket of the local
    /// API alone.
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub metrics_listen: Option<SocketAddr>,
    /// The dstack guest agent: a unix socket or an http:// URL; default: searched where dstack puts it.
    #[arg(long, value_name = "PATH|URL")]
    pub dstack_socket: Option<String>,
    /// Which WireGuard does the work; default: auto.
    #[arg(long, value_name = "KIND", value_enum)]
    pub tunnel: Option<TunnelChoice>,
    /// Why this machine can have no TUN device, as found at the start: no flag.
    #[arg(skip)]
    pub without_tun: Option<String>,
    /// How applications use a network in this process.
    #[command(flatten)]
    pub applications: ApplicationFlags,
    /// What keeps packets for the mesh from leaving in clear and strangers on the link from its addresses; default: full.
    #[arg(long, value_name = "KIND", value_enum)]
    pub guard: Option<GuardKind>,
    /// How the device carries packets.
    #[command(flatten)]
    pub device: DeviceFlags,
    /// How members without a tunnel reach applications.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// How paths to peers are made and found.
    #[command(flatten)]
    pub gateway: GatewayFlags,
    /// Blocks on top of a registration before its peer is added; removals never wait. Default: 0.
    #[arg(long, value_name = "N")]
    pub confirmations: Option<u64>,
    /// Age of the last agreed read of the contract at which `--on-registry-expiry` happens; default: 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub registry_deadline: Option<Duration>,
    /// The same for a chain that stands still, as long as two or more endpoints answer and agree that there is no newer block; never
    /// less than `--registry-deadline`. Default: 24h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub halt_deadline: Option<Duration>,
    /// What happens then: drop every peer, or go on with the last verified ones. Default: fail-closed.
    #[arg(long, value_name = "POLICY", value_enum)]
    pub on_registry_expiry: Option<ExpiryPolicy>,
    /// A KMS root to trust besides the own one; repeatable.
    #[arg(long, value_name = "ADDRESS")]
    pub trust_kms_root: Vec<Address>,
    /// An app id to trust besides the own one; repeatable.
    #[arg(long, value_name = "HEX")]
    pub trust_app_id: Vec<AppId>,
    /// The mesh network, as the contract was deployed with it: no other is believed. Needed where it is no private one (RFC 1918,
    /// 100.64.0.0/10). It is guarded from the first moment on. Default: the first private one that the contract was read to have; until
    /// then 10.0.1.0/24 is guarded.
    #[arg(long, value_name = "CIDR", value_parser = mesh_network)]
    pub mesh_network: Option<MeshNetwork>,
    /// Another gateway base domain that URLs of peers may have, besides `--gateway-domain`; repeatable. Others in the contract are not
    /// shown to applications.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow_gateway_domain: Vec<Domain>,
    /// This node is of a cluster for development: KMS roots whose keys are published, as dstack-simulator's are, may be trusted, and
    /// applications are shown the URLs that token owners have set (`meshctl dev-url`). Default: false.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        overrides_with = "development",
        value_parser = parse_switch
    )]
    pub development: Option<bool>,
    /// Transactions that this node pays for within 24 h, at most; default: 48.
    #[arg(long, value_name = "N")]
    pub max_transactions_per_day: Option<u32>,
    /// What they may cost together, in the chain's coin, as in 0.05; default: 0.05.
    #[arg(long, value_name = "AMOUNT", value_parser = gwei)]
    pub max_spending_per_day: Option<Gwei>,
    /// Seconds between keepalives to every peer, 0 = off; default: 25.
    #[arg(long, value_name = "SECONDS")]
    pub keepalive: Option<u16>,
    /// Where this node's own keys come from, WireGuard's and the member key: drawn at random and kept on disk, or derived by the guest
    /// agent, for stateless CVMs: every instance of the app can derive them then, and do as this node. Default: random.
    #[arg(long, value_name = "SOURCE", value_enum)]
    pub wireguard_key: Option<WireguardKeySource>,
    /// Stop unless the guest agent says this instance id (a check, never a choice).
    #[arg(long, value_name = "HEX")]
    pub instance_id: Option<InstanceId>,
    /// Stop unless the own key chain recovers to this KMS root (a check: nothing is trusted for it).
    #[arg(long, value_name = "ADDRESS")]
    pub kms_root: Option<Address>,
    /// Whether system calls and files that an agent never needs are refused to it: `log` makes them and has the kernel's log say so,
    /// `off` refuses nothing. Capabilities are given up in any case. Default: on.
    #[arg(long, value_name = "HOW", value_enum)]
    pub sandbox: Option<Sandbox>,
    /// off, error, warn, info, debug or trace; default: info.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// text or json; default: text.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Where standard error is a file, it is kept within so many MiB: the older half is dropped. Default: no limit.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub log_limit: Option<u32>,
}

/// What was given as a URL. Parsed in [`super::Config::resolve`], and not by clap, whose errors repeat what they refuse: it may
/// hold an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlText(String);

impl UrlText {
    /// # Errors
    /// Says what was expected, and nothing of what was given.
    pub fn parse(&self) -> Result<RpcUrl, InvalidRpcUrl> {
        self.0.parse()
    }
}

impl FromStr for UrlText {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for UrlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a node is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A peer with an address 10.0.1.x, reached by WireGuard. Needs a TUN device and NET_ADMIN, or nothing with `--tunnel netstack`.
    Wireguard,
    /// A member whose application has an https URL behind the dstack gateway. Needs no interface and no privileges: runs as any
    /// user.
    Tls,
}

impl Mode {
    /// As given.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Tls => "tls",
        }
    }

    /// As a registration says it.
    #[must_use]
    pub const fn network_type(self) -> NetworkType {
        match self {
            Self::Wireguard => NetworkType::Wireguard,
            Self::Tls => NetworkType::TlsGateway,
        }
    }
}

impl Flags {
    /// The first flag that was given and means nothing to a node of that mode.
    pub(super) fn of_other_mode(&self, mode: Mode) -> Option<&'static str> {
        let of_wireguard = [
            ("--interface", self.interface.is_some()),
            ("--listen-port", self.listen_port.is_some()),
            ("--endpoint", self.endpoint.is_some()),
            ("--tunnel", self.tunnel.is_some()),
            ("--guard", self.guard.is_some()),
            ("--mtu", self.device.mtu.is_some()),
            ("--threads", self.device.threads.is_some()),
            ("--without-offload", !self.device.without_offload.is_empty()),
            ("--keepalive", self.keepalive.is_some()),
        ];
        let of_tls = [("--tls-port", self.tls_port.is_some()), ("--front", !self.tls.front.is_empty())];
        let of_netstack = [("--expose", !self.applications.expose.is_empty())];
        // Where every gateway is, both kinds ask.
        let of_paths = self.gateway.given().into_iter().filter(|(flag, _)| *flag != "--gateway-address");
        let of_other = match mode {
            Mode::Wireguard => of_tls.to_vec(),
            Mode::Tls => of_wireguard.into_iter().chain(of_paths).chain(of_netstack).collect(),
        };
        of_other.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }
}

/// What guards the mesh network on this machine, from the agent's first start until `p2p-agent leave`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuardKind {
    /// A blackhole route, and a packet filter table (nf_tables) that drops what comes from or goes to the mesh network by any
    /// interface but the mesh's.
    Full,
    /// The blackhole route alone, for kernels without nf_tables: strangers on the link are not kept out.
    Route,
}

/// Where the WireGuard private key and the member key come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WireguardKeySource {
    /// Drawn once, kept in the state directory.
    Random,
    /// `GetKey` of the guest agent.
    Derived,
}

/// [`OnExpiry`] as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExpiryPolicy {
    /// Drop every peer and the own address.
    FailClosed,
    /// Go on with the last verified peers.
    Static,
}

impl From<ExpiryPolicy> for OnExpiry {
    fn from(policy: ExpiryPolicy) -> Self {
        match policy {
            ExpiryPolicy::FailClosed => Self::FailClosed,
            ExpiryPolicy::Static => Self::Static,
        }
    }
}

/// What happens when the process tries what an agent never needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// It is refused.
    On,
    /// It is done, and the kernel's log says so.
    Log,
    /// It is done.
    Off,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// The direct UDP endpoint to register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointChoice {
    /// The local address that leads to the RPC endpoint, with the listen port.
    Auto,
    /// None: peers that have one reach out to us, or the gateway is used.
    None,
    /// This one.
    Fixed(SocketAddr),
}

impl FromStr for EndpointChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => match text.parse::<SocketAddr>() {
                Ok(endpoint) if endpoint.port() != 0 && !endpoint.ip().is_unspecified() => Ok(Self::Fixed(endpoint)),
                _ => Err("expected IP:PORT (IPv6 in brackets), `auto` or `none`".to_owned()),
            },
        }
    }
}

/// Where others can connect to.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| "expected ADDR:PORT (IPv6 in brackets), as in 127.0.0.1:9586".to_owned())
}

/// An amount of the chain's coin, in units of 10^-9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gwei(pub u64);

/// A decimal number of coins.
fn gwei(text: &str) -> Result<Gwei, String> {
    let error = || "expected an amount of the chain's coin with at most 9 decimals, as in 0.05".to_owned();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 9 {
        return Err(error());
    }
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1_000_000_000));
    let decimals = format!("{decimals:0<9}").parse::<u64>().ok();
    whole.zip(decimals).and_then(|(whole, decimals)| whole.checked_add(decimals)).map(Gwei).ok_or_else(error)
}

/// A network that a contract can have.
pub(super) fn mesh_network(text: &str) -> Result<MeshNetwork, String> {
    let (base, prefix) = text.split_once('/').ok_or("expected BASE/PREFIX, as in 10.0.1.0/24")?;
    let base = base.parse().map_err(|_| "expected an IPv4 network, as in 10.0.1.0/24".to_owned())?;
    let prefix = prefix.parse().map_err(|_| "expected a prefix length, as in 10.0.1.0/24".to_owned())?;
    MeshNetwork::new(base, prefix).map_err(|error| error.to_string())
}

/// Whole seconds, or a number with `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let error = || "expected a number of seconds, or one with s, m, h or d such as `90s` or `1h`".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err("expected between 1 second and 365 days".to_owned()),
    }
}

/// A level of `tracing`; anything below `off` is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub tracing_subscriber::filter::LevelFilter);

impl FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "expected off, error, warn, info, debug or trace".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "h", "0", "1w", "-1", "1.5h", "99999999999999999999", "366d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metrics_are_served_at_an_address_with_a_port() {
        assert_eq!(listen_address("[::1]:9586"), Ok("[::1]:9586".parse().unwrap()));
        for bad in ["9586", ":9586", "localhost:9586", "127.0.0.1:0", "127.0.0.1"] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_addresses_not_names() {
        assert_eq!("auto".parse(), Ok(EndpointChoice::Auto));
        assert_eq!("none".parse(), Ok(EndpointChoice::None));
        assert_eq!("[2001:db8::1]:51821".parse(), Ok(EndpointChoice::Fixed("[2001:db8::1]:51821".parse().unwrap())));
        for bad in ["192.0.2.1", "192.0.2.1:0", "0.0.0.0:51821", "example.com:51821", ""] {
            assert!(bad.parse::<EndpointChoice>().is_err(), "{bad}");
        }
    }
}
