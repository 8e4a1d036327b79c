//! What the operator decided: flags, then `P2P_*` variables (and the names dstack and the first prototype used), then the
//! TOML file. All three are parsed by the same parser, here and nowhere else.

mod device;
mod flags;
mod source;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_core::{
    agent::OnExpiry,
    id::{Address, AppId, InstanceId, TokenId},
};
use mesh_tunnel::DeviceOptions;

pub use device::{DeviceFlags, OffloadName};
pub use flags::{
    Dataplane, EndpointChoice, ExpiryPolicy, Flags, LogFormat, LogLevel, Mode, UrlText, WireguardKeySource,
};
pub use source::{ConfigError, Layers};

use crate::chain::RpcUrl;

/// The interface the tunnel gets when nothing else is said.
pub const DEFAULT_INTERFACE: &str = "mesh0";
/// The UDP port of the device when nothing else is said; WireGuard's usual 51820 is often taken on a CVM's host.
pub const DEFAULT_LISTEN_PORT: u16 = 51821;
/// Where the configuration file is looked for when no path is given.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/p2p-agent/config.toml";
/// dstack's own WireGuard listens here in every CVM.
const DSTACK_WIREGUARD_PORT: u16 = 9182;
/// dstack's own WireGuard interface.
const DSTACK_WIREGUARD_INTERFACE: &str = "dstack-wg0";

/// Everything decided, with defaults filled in and ranges checked.
#[derive(Debug, Clone)]
pub struct Config {
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
    /// The guest agent; looked for where `None`.
    pub dstack_socket: Option<String>,
    /// Which WireGuard does the work.
    pub dataplane: Dataplane,
    /// How the userspace device is made. Of the kernel's, name and MTU alone.
    pub device: DeviceOptions,
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
    /// Where the WireGuard key comes from.
    pub wireguard_key: WireguardKeySource,
    /// The guest agent must say this instance id.
    pub expected_instance: Option<InstanceId>,
    /// The own key chain must recover to this root.
    pub expected_kms_root: Option<Address>,
    /// Peer names.
    pub names: BTreeMap<TokenId, String>,
}

impl Config {
    /// Fills defaults in and checks ranges.
    ///
    /// # Errors
    /// Whatever is missing, out of range, or reserved by dstack.
    pub fn resolve(flags: Flags, names: BTreeMap<TokenId, String>) -> Result<Self, ConfigError> {
        match flags.mode.unwrap_or(Mode::Wireguard) {
            Mode::Wireguard => {}
            Mode::Tls => return Err(ConfigError::TlsMode),
        }
        let interface = flags.interface.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
        check_interface(&interface)?;
        let dataplane = flags.tunnel.unwrap_or(Dataplane::Userspace);
        if let Some(flag) = flags.device.of_userspace_alone()
            && dataplane == Dataplane::Kernel
        {
            return Err(ConfigError::UserspaceOnly { flag });
        }
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
        Ok(Self {
            contract: flags.contract,
            rpc_urls,
            rpc_quorum,
            chain_id: flags.chain_id,
            token: flags.token,
            listen_port,
            endpoint: flags.endpoint.unwrap_or(EndpointChoice::Auto),
            state_dir: flags.state_dir.unwrap_or_else(|| Path::new("/var/lib/p2p-agent").join(&interface)),
            socket: flags.socket.unwrap_or_else(|| Path::new("/run/p2p-agent").join(format!("{interface}.sock"))),
            device: flags.device.options(&interface),
            interface,
            dstack_socket: flags.dstack_socket,
            dataplane,
            confirmations: flags.confirmations.unwrap_or(0),
            registry_deadline: flags.registry_deadline.unwrap_or(Duration::from_secs(3600)),
            on_registry_expiry: flags.on_registry_expiry.map_or(OnExpiry::FailClosed, Into::into),
            trusted_kms_roots: flags.trust_kms_root,
            trusted_app_ids: flags.trust_app_id,
            keepalive: flags.keepalive.unwrap_or(25),
            wireguard_key: flags.wireguard_key.unwrap_or(WireguardKeySource::Random),
            expected_instance: flags.instance_id,
            expected_kms_root: flags.kms_root,
            names,
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

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Layers { arguments, variable: &|_| None, file: None }
            .flags()
            .and_then(|(flags, names)| Config::resolve(flags, names))
    }

    #[test]
    fn defaults_follow_the_interface() {
        let config = config(&["--rpc-url", "http://127.0.0.1:8545", "--interface", "mesh7"]).unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/p2p-agent/mesh7"));
        assert_eq!(config.socket, Path::new("/run/p2p-agent/mesh7.sock"));
        assert_eq!(config.listen_port, 51821);
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
    fn bad_values_name_themselves() {
        let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap_err().to_string();
        assert!(with(&["--interface", "sixteen-bytes-xx"]).contains("sixteen-bytes-xx"));
        assert!(with(&["--interface", "a/b"]).contains("a/b"));
        assert!(with(&["--listen-port", "0"]).contains("--listen-port"));
        assert!(with(&["--endpoint", "nowhere"]).contains("nowhere"));
        assert!(with(&["--mode", "tls"]).contains("wireguard"));
        assert!(with(&["--rpc-url", "http://a"]).contains("twice"));
        assert!(with(&["--rpc-url", "ftp://b"]).contains("RPC endpoint 2"));
        assert!(config(&[]).unwrap_err().to_string().contains("--rpc-url"));
    }
}
