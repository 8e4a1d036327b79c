//! What the operator decided: flags, then `P2P_*` variables (and the names dstack and the first prototype used), then the
//! TOML file. All three are parsed by the same parser, here and nowhere else.

mod device;
mod flags;
mod gateway;
mod homes;
mod leave;
mod source;

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_chain::{DailyLimit, RpcUrl};
use mesh_core::{
    agent::{Allowed, OnExpiry},
    development::published_key,
    id::{Address, AppId, InstanceId, TokenId},
    place::OwnPlace,
};
use mesh_tunnel::DeviceOptions;

pub use device::{DeviceFlags, OffloadName};
pub use flags::{
    Dataplane, EndpointChoice, ExpiryPolicy, Flags, GuardKind, Gwei, LogFormat, LogLevel, Mode, Sandbox, UrlText,
    WireguardKeySource,
};
pub use gateway::{GatewayFlags, GatewaySettings, StunServer};
pub use homes::Homes;
pub use leave::{LeaveFlags, LeaveSettings};
pub use source::{ConfigError, Layers};

use crate::api::{Group, UserId};

/// The tunnel's interface by default.
pub const DEFAULT_INTERFACE: &str = "mesh0";
/// The device's UDP port by default; WireGuard's usual 51820 is often taken on a CVM's host.
pub const DEFAULT_LISTEN_PORT: u16 = 51821;
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
    /// RPC endpoints, at least one.
    pub rpc_urls: Vec<RpcUrl>,
    /// How many of them must say the same.
    pub rpc_quorum: usize,
    /// The chain the RPC endpoints must be of, where given.
    pub chain_id: Option<u64>,
    /// Register for this token only.
    pub token: Option<TokenId>,
    /// Interface name, 1 to 15 bytes.
    pub interface: String,
    /// UDP port, nonzero.
    pub listen_port: u16,
    /// Endpoint to register.
    pub endpoint: EndpointChoice,
    /// Key file, lock and cache live here.
    pub state_dir: PathBuf,
    /// The local API's socket.
    pub socket: PathBuf,
    /// Whose members may act through it.
    pub api_group: Option<Group>,
    /// Further users who may.
    pub allow_vote_uid: Vec<UserId>,
    /// The guest agent; looked for where `None`.
    pub dstack_socket: Option<String>,
    /// Which WireGuard does the work.
    pub dataplane: Dataplane,
    /// What guards the mesh network on this machine.
    pub guard: GuardKind,
    /// How the userspace device is made. Of the kernel's, name and MTU alone.
    pub device: DeviceOptions,
    /// How paths besides the registered endpoint are made and found; of the userspace device alone.
    pub gateway: GatewaySettings,
    /// Blocks on top of a registration before its peer is added.
    pub confirmations: u64,
    /// Age of the last agreed read at which `on_registry_expiry` happens.
    pub registry_deadline: Duration,
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
        let dataplane = flags.tunnel.unwrap_or(Dataplane::Userspace);
        let of_gateway = flags.gateway.given().into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
        if let Some(flag) = flags.device.of_userspace_alone().or(of_gateway)
            && dataplane == Dataplane::Kernel
        {
            return Err(ConfigError::UserspaceOnly { flag });
        }
        let gateway = flags.gateway.settings();
        let listen_port = flags.listen_port.unwrap_or(DEFAULT_LISTEN_PORT);
        if listen_port == DSTACK_WIREGUARD_PORT {
            return Err(ConfigError::DstackPort);
        }
        if flags.rpc_url.is_empty() {
            return Err(ConfigError::NoRpcUrl);
        }
        let parse = |(index, text): (usize, &UrlText)| {
            text.parse().map_err(|reason| ConfigError::RpcUrl { number: index + 1, reason })
        };
        let rpc_urls = flags.rpc_url.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        if let Some(twice) = repeated(&rpc_urls) {
            return Err(ConfigError::RpcUrlTwice { id: twice.id().to_owned() });
        }
        let sources = rpc_urls.len();
        let rpc_quorum = flags.rpc_quorum.unwrap_or(sources / 2 + 1);
        if !(1..=sources).contains(&rpc_quorum) {
            return Err(ConfigError::Quorum { need: rpc_quorum, sources });
        }
        let (port, default_state_dir, default_socket) = match mode {
            Mode::Wireguard => (
                gateway.port().ok_or(ConfigError::GatewayPort)?,
                Ok(Path::new(STATE_DIR).join(&interface)),
                Ok(Path::new(RUN_DIR).join(format!("{interface}.sock"))),
            ),
            Mode::Tls if flags.gateway_domain.is_none() => return Err(ConfigError::NoGatewayDomain),
            Mode::Tls => (flags.tls_port.unwrap_or(DEFAULT_TLS_PORT), homes.tls_state_dir(), homes.tls_socket()),
        };
        // The kernel's device has no other path than UDP: a place would be one at which nothing listens.
        let has_place = mode == Mode::Tls || dataplane == Dataplane::Userspace;
        let place = flags.gateway_domain.filter(|_| has_place).map(|domain| OwnPlace { domain, port });
        Ok(Self {
            mode,
            place,
            contract: flags.contract,
            rpc_urls,
            rpc_quorum,
            chain_id: flags.chain_id,
            token: flags.token,
            listen_port,
            endpoint: match mode {
                Mode::Wireguard => flags.endpoint.unwrap_or(EndpointChoice::Auto),
                Mode::Tls => EndpointChoice::None,
            },
            state_dir: flags.state_dir.map_or(default_state_dir, Ok)?,
            socket: flags.socket.map_or(default_socket, Ok)?,
            api_group: flags.api_group,
            allow_vote_uid: flags.allow_vote_uid,
            device: flags.device.options(&interface),
            gateway,
            interface,
            dstack_socket: flags.dstack_socket,
            dataplane,
            guard: flags.guard.unwrap_or(GuardKind::Full),
            confirmations: flags.confirmations.unwrap_or(0),
            registry_deadline: flags.registry_deadline.unwrap_or(Duration::from_secs(3600)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(arguments: &[&str], homes: &Homes) -> Result<Config, ConfigError> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (flags, names) = Layers { arguments, variable: &|_| None, file: None }.flags()?;
        Config::resolve(flags, names, homes)
    }

    /// As root's agent would be started.
    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        config_of(arguments, &Homes::of(0, |_| None))
    }

    #[test]
    fn a_tls_node_needs_a_domain_and_no_interface() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a", "--mode", "tls"][..], more].concat());
        let error = with(&[]).unwrap_err().to_string();
        assert!(error.contains("--gateway-domain") && error.contains("DSTACK_GATEWAY_DOMAIN"), "{error}");
        let domain = ["--gateway-domain", "gw.example"];
        let config = with(&domain).unwrap();
        let place = config.place.unwrap();
        assert_eq!((config.mode, place.domain.as_str(), place.port.get()), (Mode::Tls, "gw.example", 443));
        assert_eq!(config.state_dir, Path::new("/var/lib/p2p-agent/tls"));
        assert_eq!(config.socket, Path::new("/run/p2p-agent/tls.sock"));
        let port = with(&[&domain[..], &["--tls-port", "8443"]].concat()).unwrap().place.unwrap().port;
        assert_eq!(port.get(), 8443);
        for of_wireguard in [
            ["--interface", "mesh0"],
            ["--listen-port", "51821"],
            ["--endpoint", "none"],
            ["--tunnel", "userspace"],
            ["--guard", "full"],
            ["--mtu", "1400"],
            ["--threads", "2"],
            ["--without-offload", "udp_gso"],
            ["--keepalive", "25"],
            ["--gateway-listen", "0.0.0.0:51822"],
            ["--gateway-address", "192.0.2.1:443"],
            ["--gateway-redial-after", "1h"],
            ["--stun", "192.0.2.1:3478"],
        ] {
            let error = with(&[&domain[..], &of_wireguard].concat()).unwrap_err().to_string();
            assert!(error.contains(of_wireguard[0]) && error.contains("--mode tls"), "{error}");
        }
        for bad in ["gw", "https://gw.example", "GW.example", "10.0.0.1"] {
            let error = with(&["--gateway-domain", bad]).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("--gateway-domain"), "{error}");
        }
    }

    #[test]
    fn an_ordinary_user_has_directories_of_his_own() {
        let arguments = ["--rpc-url", "http://a", "--mode", "tls", "--gateway-domain", "gw.example"];
        let as_user = |variables: &'static [(&str, &str)], more: &[&str]| {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
            config_of(&[&arguments[..], more].concat(), &Homes::of(1000, variable))
        };
        let paths = |config: Config| (config.state_dir, config.socket);
        let socket = PathBuf::from("/run/user/1000/p2p-agent/tls.sock");
        for (variables, state) in [
            (&[("XDG_STATE_HOME", "/s"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")][..], "/s/p2p-agent"),
            (&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")], "/h/.local/state/p2p-agent"),
            (
                &[("XDG_STATE_HOME", "relative"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
                "/h/.local/state/p2p-agent",
            ),
        ] {
            assert_eq!(paths(as_user(variables, &[]).unwrap()), (state.into(), socket.clone()));
        }
        assert!(matches!(as_user(&[("HOME", "/h")], &[]), Err(ConfigError::NoRuntimeDir)));
        assert!(matches!(as_user(&[("XDG_RUNTIME_DIR", "/r")], &[]), Err(ConfigError::NoStateHome)));
        let given = as_user(&[], &["--state-dir", "/a", "--socket", "/b/c.sock"]).unwrap();
        assert_eq!(paths(given), ("/a".into(), "/b/c.sock".into()));
    }

    #[test]
    fn a_wireguard_node_has_a_place_for_streams_where_it_can_take_them() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap().place;
        assert_eq!(with(&[]), None);
        let place = with(&["--gateway-domain", "gw.example"]).unwrap();
        assert_eq!((place.domain.as_str(), place.port), ("gw.example", DEFAULT_GATEWAY_PORT));
        assert_eq!(with(&["--gateway-domain", "gw.example", "--tunnel", "kernel"]), None);
        let error = config(&["--rpc-url", "http://a", "--tls-port", "1"]).unwrap_err().to_string();
        assert!(error.contains("--tls-port") && error.contains("--mode wireguard"), "{error}");
    }

    #[test]
    fn defaults_follow_the_interface() {
        let config = config(&["--rpc-url", "http://127.0.0.1:8545", "--interface", "mesh7"]).unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/p2p-agent/mesh7"));
        assert_eq!(config.socket, Path::new("/run/p2p-agent/mesh7.sock"));
        assert_eq!(config.listen_port, 51821);
        assert_eq!((config.guard, config.allowed.mesh_network), (GuardKind::Full, None));
        assert_eq!(config.rpc_quorum, 1);
        assert_eq!(config.on_registry_expiry, OnExpiry::FailClosed);
    }

    #[test]
    fn the_quorum_is_the_majority_unless_said() {
        let urls = ["--rpc-url", "http://a", "--rpc-url", "http://b", "--rpc-url", "http://c"];
        assert_eq!(config(&urls).unwrap().rpc_quorum, 2);
        let three = [&urls[..], &["--rpc-quorum", "3"]].concat();
        assert_eq!(config(&three).unwrap().rpc_quorum, 3);
        let four = [&urls[..], &["--rpc-quorum", "4"]].concat();
        assert!(matches!(config(&four), Err(ConfigError::Quorum { need: 4, sources: 3 })));
    }

    #[test]
    fn peers_call_where_the_agent_listens() {
        let with =
            |more: &[&str]| config(&[&["--rpc-url", "http://a", "--gateway-domain", "gw.example"][..], more].concat());
        let place = with(&["--gateway-listen", "192.0.2.1:6000"]).unwrap().place.unwrap();
        assert_eq!(place.port.get(), 6000);
        assert!(matches!(with(&["--gateway-listen", "0.0.0.0:0"]), Err(ConfigError::GatewayPort)));
        for flag in [
            ["--gateway-listen", "0.0.0.0:1"],
            ["--gateway-address", "192.0.2.1:443"],
            ["--gateway-redial-after", "1h"],
            ["--stun", "192.0.2.1:3478"],
        ] {
            let of_kernel = with(&[&["--tunnel", "kernel"][..], &flag].concat()).unwrap_err().to_string();
            assert!(of_kernel.contains(flag[0]) && of_kernel.contains("--tunnel kernel"), "{of_kernel}");
            let of_tls = with(&[&["--mode", "tls"][..], &flag].concat()).unwrap_err().to_string();
            assert!(of_tls.contains(flag[0]) && of_tls.contains("--mode tls"), "{of_tls}");
        }
    }

    #[test]
    fn what_dstack_uses_itself_is_refused() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
        assert!(matches!(with(&["--listen-port", "9182"]), Err(ConfigError::DstackPort)));
        assert!(matches!(with(&["--interface", "dstack-wg0"]), Err(ConfigError::DstackInterface)));
    }

    #[test]
    fn the_device_is_made_as_was_said() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
        let device = with(&["--mtu", "1380", "--threads", "2", "--without-offload", "udp_gro"]).unwrap().device;
        assert_eq!((device.name.as_str(), device.mtu, device.threads.get()), ("mesh0", Some(1380), 2));
        assert!(!device.offloads.udp_gro && device.offloads.udp_gso);
        assert_eq!(with(&["--tunnel", "kernel", "--mtu", "1380"]).unwrap().device.mtu, Some(1380));
        for of_userspace in [["--threads", "1"], ["--without-offload", "udp_gso"]] {
            let error = with(&[&["--tunnel", "kernel"][..], &of_userspace].concat()).unwrap_err().to_string();
            assert!(error.contains(of_userspace[0]) && error.contains("--tunnel kernel"), "{error}");
        }
    }

    #[test]
    fn what_the_contract_alone_may_not_say_is_the_operators() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
        assert_eq!(with(&[]).unwrap().allowed, Allowed::default());
        let domains = ["--allow-gateway-domain", "one.example", "--allow-gateway-domain", "two.example"];
        let given = [&["--mesh-network", "203.0.4.0/24", "--development"][..], &domains].concat();
        let allowed = with(&given).unwrap().allowed;
        assert_eq!(allowed.mesh_network.map(|network| network.network().to_string()).as_deref(), Some("203.0.4.0/24"));
        assert_eq!(
            allowed.gateway_domains.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["one.example", "two.example"]
        );
        assert!(allowed.dev_urls && !with(&["--development=false"]).unwrap().allowed.dev_urls);
        for bad in ["10.0.1.1/24", "10.0.1.0/8", "10.0.1.0", "mesh"] {
            assert!(with(&["--mesh-network", bad]).unwrap_err().to_string().contains("--mesh-network"), "{bad}");
        }
    }

    #[test]
    fn spending_has_a_limit_unless_another_is_given() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
        assert_eq!(with(&[]).unwrap().daily_limit, DailyLimit::default());
        let given = ["--max-transactions-per-day", "3", "--max-spending-per-day", "1.25"];
        assert_eq!(with(&given).unwrap().daily_limit, DailyLimit { transactions: 3, gwei: 1_250_000_000 });
        for bad in ["", ".", "1.", "-1", "1.0000000001", "99999999999999999999", "0x1", "1e3"] {
            assert!(with(&[&format!("--max-spending-per-day={bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_may_act_is_said_by_number_or_by_a_groups_name() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
        let config =
            with(&["--allow-vote-uid", "10001", "--allow-vote-uid=10002", "--api-group", "p2p-agent"]).unwrap();
        assert_eq!(config.allow_vote_uid, [UserId(10_001), UserId(10_002)]);
        assert_eq!(config.api_group, Some(Group::Name("p2p-agent".to_owned())));
        let config = with(&[]).unwrap();
        assert_eq!((config.allow_vote_uid, config.api_group), (Vec::new(), None));
        for bad in [["--allow-vote-uid", "65534"], ["--allow-vote-uid", "www-data"], ["--api-group", "a:b"]] {
            let error = with(&bad).unwrap_err().to_string();
            assert!(error.contains(bad[0]) && error.contains(bad[1]), "{error}");
        }
    }

    #[test]
    fn published_roots_are_trusted_for_development_alone() {
        let ones = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a", "--trust-kms-root", ones][..], more].concat());
        for of_production in [&[][..], &["--development=false"]] {
            let error = with(of_production).unwrap_err().to_string();
            assert!(
                error.contains(ones) && error.contains("published") && error.contains("`--development`"),
                "{error}"
            );
        }
        for of_development in ["--development", "--development=true"] {
            let config = with(&[of_development]).unwrap();
            assert!(config.development && config.trusted_kms_roots == [ones.parse::<Address>().unwrap()]);
        }
        let other = "0x1111111111111111111111111111111111111111";
        assert!(!config(&["--rpc-url", "http://a", "--trust-kms-root", other]).unwrap().development);
    }

    #[test]
    fn bad_values_name_themselves() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap_err().to_string();
        assert!(with(&["--interface", "sixteen-bytes-xx"]).contains("sixteen-bytes-xx"));
        assert!(with(&["--interface", "a/b"]).contains("a/b"));
        assert!(with(&["--listen-port", "0"]).contains("--listen-port"));
        assert!(with(&["--endpoint", "nowhere"]).contains("nowhere"));
        assert!(with(&["--rpc-url", "http://a"]).contains("twice"));
        assert!(with(&["--rpc-url", "ftp://b"]).contains("RPC endpoint 2"));
        assert!(config(&[]).unwrap_err().to_string().contains("--rpc-url"));
    }
}
