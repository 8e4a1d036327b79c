//! What the operator decided: flags, then `P2P_*` variables (and the names dstack and the first prototype used), then the
//! TOML file. All three are parsed by the same parser, here and nowhere else.

mod applications;
mod device;
mod flags;
mod gateway;
mod given;
mod homes;
mod leave;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_chain::{DailyLimit, RpcUrl};
use mesh_core::{
    agent::{Adjustments, Allowed, OnExpiry},
    development::published_key,
    freshness::Deadlines,
    id::{Address, AppId, InstanceId, TokenId},
    listen_port::listen_port,
    place::OwnPlace,
};
use mesh_tunnel::DeviceOptions;

pub use applications::{ApplicationFlags, Expose};
pub use device::{DeviceFlags, OffloadName};
pub use flags::{
    EndpointChoice, ExpiryPolicy, Flags, GuardKind, Gwei, LogFormat, LogLevel, Mode, Sandbox, UrlText,
    WireguardKeySource,
};
pub use gateway::{GatewayFlags, GatewaySettings, StunServer};
pub use given::Given;
pub use homes::Homes;
pub use leave::{LeaveFlags, LeaveSettings};
pub use source::{ConfigError, Layers, Read};
pub use tls::{TlsFlags, TlsSettings};
pub use tunnel::{Dataplane, TunnelChoice};

use crate::api::{Group, UserId};

/// The tunnel's interface by default.
pub const DEFAULT_INTERFACE: &str = "mesh0";
/// The device's UDP port where its operator names the endpoint and no port, because something outside leads to it then; WireGuard's
/// usual 51820 is often taken on a CVM's host.
pub const FORWARDED_LISTEN_PORT: u16 = 51821;
/// Where the configuration file is looked for when no path is given.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/p2p-agent/config.toml";
/// Where WireGuard nodes listen for streams from the gateway by default.
pub const DEFAULT_GATEWAY_PORT: NonZeroU16 = NonZeroU16::new(51822).expect("it is not zero");
/// The application's port by default: that of https.
const DEFAULT_TLS_PORT: NonZeroU16 = NonZeroU16::new(443).expect("it is not zero");
/// State directories of agents lie in it.
const STATE_DIR: &str = "/var/lib/p2p-agent";
/// Sockets of agents lie in it.
const RUN_DIR: &str = "/run/p2p-agent";
/// dstack's own WireGuard listens here in every CVM.
const DSTACK_WIREGUARD_PORT: u16 = 9182;
/// dstack's own WireGuard interface.
pub(crate) const DSTACK_WIREGUARD_INTERFACE: &str = "dstack-wg0";

/// Everything decided, with defaults filled in and ranges checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this node is. A TLS node does not use the settings of interface, device and UDP below.
    pub mode: Mode,
    /// Where it is reached through the gateway: its agent's place for streams, or in TLS mode, where there always is one, its
    /// application's.
    pub place: Option<OwnPlace>,
    /// The cluster contract; the app id of the guest agent's `Info` where `None`.
    pub contract: Option<Address>,
    /// The configuration file that was named, if one was.
    pub config_file: Option<PathBuf>,
    /// RPC endpoints, at least one.
    pub rpc_urls: Vec<RpcUrl>,
    /// How many of them must say the same.
    pub rpc_quorum: usize,
    /// The last of them is the operator's own: it alone names blocks.
    pub rpc_trusted: bool,
    /// The chain the RPC endpoints must be of, where given.
    pub chain_id: Option<u64>,
    /// Register for this token only.
    pub token: Option<TokenId>,
    /// Interface name, 1 to 15 bytes.
    pub interface: String,
    /// UDP port, nonzero; the instance's own where `None`.
    pub listen_port: Option<u16>,
    /// Endpoint to register.
    pub endpoint: EndpointChoice,
    /// Key file, lock and cache live here.
    pub state_dir: PathBuf,
    /// The local API's socket.
    pub socket: PathBuf,
    /// Where metrics are served by TCP, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Whose members may act through it.
    pub api_group: Option<Group>,
    /// Further users who may.
    pub allow_vote_uid: Vec<UserId>,
    /// The guest agent; looked for where `None`.
    pub dstack_socket: Option<String>,
    /// Which WireGuard does the work.
    pub dataplane: Dataplane,
    /// Why it is not the one over a TUN device, where the operator left that open.
    pub without_tun: Option<String>,
    /// How applications use a network in this process.
    pub applications: ApplicationFlags,
    /// What guards the mesh network on this machine.
    pub guard: GuardKind,
    /// How the userspace device is made. Of the kernel's, name and MTU alone.
    pub device: DeviceOptions,
    /// How paths besides the registered endpoint are made and found; of the userspace device alone.
    pub gateway: GatewaySettings,
    /// How members without a tunnel reach this node's applications.
    pub tls: TlsSettings,
    /// Blocks on top of a registration before its peer is added.
    pub confirmations: u64,
    /// When a view of the contract is so old that `on_registry_expiry` happens.
    pub deadlines: Deadlines,
    /// What happens then.
    pub on_registry_expiry: OnExpiry,
    /// KMS roots trusted besides the own one.
    pub trusted_kms_roots: Vec<Address>,
    /// App ids trusted besides the own one.
    pub trusted_app_ids: Vec<AppId>,
    /// Seconds between keepalives, 0 = off.
    pub keepalive: u16,
    /// What happens when the process tries what an agent never needs.
    pub sandbox: Sandbox,
    /// Where the WireGuard key comes from.
    pub wireguard_key: WireguardKeySource,
    /// The cluster is for development: keys whose private part is published may be trusted.
    pub development: bool,
    /// The guest agent must say this instance id.
    pub expected_instance: Option<InstanceId>,
    /// The own key chain must recover to this root.
    pub expected_kms_root: Option<Address>,
    /// Peer names.
    pub names: BTreeMap<TokenId, String>,
    /// What needs the operator's consent besides the contract's word.
    pub allowed: Allowed,
    /// What this node's own transactions may cost.
    pub daily_limit: DailyLimit,
}

impl Config {
    /// Fills defaults in and checks ranges.
    ///
    /// # Errors
    /// Whatever is missing, out of range, or reserved by dstack.
    pub fn resolve(flags: Flags, names: BTreeMap<TokenId, String>, homes: &Homes) -> Result<Self, ConfigError> {
        let development = flags.development.unwrap_or(false);
        let published = |root: &Address| published_key(*root).map(|place| (*root, place));
        if let Some((root, published)) = flags.trust_kms_root.iter().find_map(published)
            && !development
        {
            return Err(ConfigError::PublishedRoot { root, published });
        }
        let mode = flags.mode.unwrap_or(Mode::Wireguard);
        if let Some(flag) = flags.of_other_mode(mode) {
            return Err(ConfigError::OtherMode { flag, mode: mode.name() });
        }
        let interface = flags.interface.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
        check_interface(&interface)?;
        let of_applications = flags.applications.given().into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
        let is_used = flags.applications.is_any();
        let dataplane = Dataplane::of(flags.tunnel, flags.without_tun.as_deref(), is_used);
        if let (Some(flag), Some(TunnelChoice::Userspace | TunnelChoice::Kernel)) = (of_applications, flags.tunnel) {
            return Err(ConfigError::NetstackOnly { flag });
        }
        if flags.tunnel == Some(TunnelChoice::Netstack) && flags.guard.is_some() {
            return Err(ConfigError::NothingToGuard);
        }
        if let Some(port) = flags.applications.exposed_twice() {
            return Err(ConfigError::ExposedTwice { port: port.get() });
        }
        let is_chosen = matches!(flags.tunnel, Some(TunnelChoice::Netstack));
        let without_tun = flags.without_tun.filter(|_| dataplane == Dataplane::Netstack && !is_chosen);
        let of_gateway = flags.gateway.given().into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
        if let Some(flag) = flags.device.of_userspace_alone().or(of_gateway)
            && dataplane == Dataplane::Kernel
        {
            return Err(ConfigError::UserspaceOnly { flag });
        }
        let gateway = flags.gateway.settings();
        let endpoint = flags.endpoint.unwrap_or(EndpointChoice::Auto);
        let is_forwarded = matches!(endpoint, EndpointChoice::Fixed(_));
        let listen_port = flags.listen_port.or(is_forwarded.then_some(FORWARDED_LISTEN_PORT));
        if listen_port == Some(DSTACK_WIREGUARD_PORT) {
            return Err(ConfigError::DstackPort);
        }
        if flags.rpc_url.is_empty() && flags.trusted_rpc_url.is_none() {
            return Err(ConfigError::NoRpcUrl);
        }
        let parse = |(index, text): (usize, &UrlText)| {
            text.parse().map_err(|reason| ConfigError::RpcUrl { number: index + 1, reason })
        };
        let mut rpc_urls = flags.rpc_url.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        let trusted = flags.trusted_rpc_url.as_ref().map(|text| text.parse().map_err(ConfigError::TrustedRpcUrl));
        rpc_urls.extend(trusted.transpose()?);
        if let Some(twice) = repeated(&rpc_urls) {
            return Err(ConfigError::RpcUrlTwice { id: twice.id().to_owned() });
        }
        let sources = rpc_urls.len();
        let rpc_trusted = flags.trusted_rpc_url.is_some();
        if rpc_trusted && flags.rpc_quorum.is_some() {
            return Err(ConfigError::TrustedAndQuorum);
        }
        let rpc_quorum = if rpc_trusted { 1 } else { flags.rpc_quorum.unwrap_or(sources / 2 + 1) };
        if !(1..=sources).contains(&rpc_quorum) {
            return Err(ConfigError::Quorum { need: rpc_quorum, sources });
        }
        let (port, default_state_dir, default_socket) = match mode {
            Mode::Wireguard => (
                gateway.port().ok_or(ConfigError::GatewayPort)?,
                if dataplane.has_interface() {
                    Ok(Path::new(STATE_DIR).join(&interface))
                } else {
                    homes.netstack_state_dir(&interface)
                },
                if dataplane.has_interface() {
                    Ok(Path::new(RUN_DIR).join(format!("{interface}.sock")))
                } else {
                    homes.netstack_socket(&interface)
                },
            ),
            Mode::Tls if flags.gateway_domain.is_none() => return Err(ConfigError::NoGatewayDomain),
            Mode::Tls => {
                let port = flags.tls_port.or_else(|| flags.tls.port()).unwrap_or(DEFAULT_TLS_PORT);
                (port, homes.tls_state_dir(), homes.tls_socket())
            }
        };
        if let Some(port) = flags.tls.fronted_twice() {
            return Err(ConfigError::FrontedTwice { port });
        }
        let socket = flags.socket.map_or(default_socket, Ok)?;
        let tls = TlsSettings { fronts: flags.tls.front, key_file: socket.with_extension("key.pem") };
        // The kernel's device has no other path than UDP: a place would be one at which nothing listens.
        let has_place = mode == Mode::Tls || dataplane != Dataplane::Kernel;
        let place = flags.gateway_domain.filter(|_| has_place).map(|domain| OwnPlace { domain, port });
        Ok(Self {
            mode,
            place,
            contract: flags.contract,
            config_file: flags.config,
            rpc_urls,
            rpc_quorum,
            rpc_trusted,
            chain_id: flags.chain_id,
            token: flags.token,
            listen_port,
            endpoint: match mode {
                Mode::Wireguard => endpoint,
                Mode::Tls => EndpointChoice::None,
            },
            state_dir: flags.state_dir.map_or(default_state_dir, Ok)?,
            socket,
            tls,
            metrics_listen: flags.metrics_listen,
            api_group: flags.api_group,
            allow_vote_uid: flags.allow_vote_uid,
            // A socket for `wg` needs a directory of root's, and there is no interface that it would show.
            device: DeviceOptions { uapi: dataplane.has_interface(), ..flags.device.options(&interface) },
            gateway,
            interface,
            dstack_socket: flags.dstack_socket,
            dataplane,
            without_tun,
            applications: flags.applications,
            guard: flags.guard.unwrap_or(GuardKind::Full),
            confirmations: flags.confirmations.unwrap_or(0),
            deadlines: Deadlines {
                registry: flags.registry_deadline.unwrap_or(Duration::from_secs(3600)),
                halt: flags.halt_deadline.unwrap_or(Duration::from_secs(24 * 3600)),
            },
            on_registry_expiry: flags.on_registry_expiry.map_or(OnExpiry::FailClosed, Into::into),
            trusted_kms_roots: flags.trust_kms_root,
            trusted_app_ids: flags.trust_app_id,
            keepalive: flags.keepalive.unwrap_or(25),
            sandbox: flags.sandbox.unwrap_or(Sandbox::On),
            wireguard_key: flags.wireguard_key.unwrap_or(WireguardKeySource::Random),
            development,
            expected_instance: flags.instance_id,
            expected_kms_root: flags.kms_root,
            names,
            allowed: Allowed {
                mesh_network: flags.mesh_network,
                gateway_domains: flags.allow_gateway_domain,
                dev_urls: development,
            },
            daily_limit: DailyLimit {
                transactions: flags.max_transactions_per_day.unwrap_or(DailyLimit::default().transactions),
                gwei: flags.max_spending_per_day.map_or(DailyLimit::default().gwei, |Gwei(gwei)| gwei),
            },
        })
    }
}

impl Config {
    /// The UDP port of this node.
    #[must_use]
    pub fn listen_port_of(&self, instance: InstanceId) -> u16 {
        self.listen_port.unwrap_or_else(|| listen_port(instance))
    }

    /// What of it may change while the agent runs.
    #[must_use]
    pub fn adjustments(&self) -> Adjustments {
        Adjustments {
            names: self.names.clone(),
            keepalive: self.keepalive,
            deadlines: self.deadlines,
            on_expiry: self.on_registry_expiry,
        }
    }
}

/// The kernel's own rules for names (`dev_valid_name`), without the `%` that `TUNSETIFF` would fill in.
fn check_interface(name: &str) -> Result<(), ConfigError> {
    if name == DSTACK_WIREGUARD_INTERFACE {
        return Err(ConfigError::DstackInterface);
    }
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    let valid = (1..=15).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != "..";
    if valid { Ok(()) } else { Err(ConfigError::Interface { name: name.to_owned() }) }
}

fn repeated(urls: &[RpcUrl]) -> Option<&RpcUrl> {
    urls.iter().enumerate().find_map(|(index, url)| urls[..index].contains(url).then_some(url))
}
