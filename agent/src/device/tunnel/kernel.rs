//! The kernel's WireGuard, through netlink. It keeps sessions and endpoints itself; it does not say when it last received or
//! sent, so that is seen in its byte counters between two observations.

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use defguard_wireguard_rs::{
    InterfaceConfiguration, Kernel, WGApi, WireguardInterfaceApi as _, error::WireguardInterfaceError, host::Host,
    key::Key, net::IpAddrMask, peer::Peer,
};
use ipnetwork::IpNetwork;
use mesh_core::{id::WireguardKey, observed::ObservedPeer};
use mesh_tunnel::{DEFAULT_MTU, derived_mtu};
use zeroize::Zeroize as _;

use super::{KERNEL_MODULE, PeerEdit, PskEdit, Tunnel, TunnelError, TunnelState};
use crate::identity::keyfile::WireguardSecret;

/// An interface of type wireguard. It outlives a killed agent; the next one adopts it, with its sessions, where it runs with
/// our key.
pub struct KernelTunnel {
    name: String,
    /// Inner MTU that was asked for, bytes.
    mtu: Option<u16>,
    api: Option<WGApi<Kernel>>,
    traffic: BTreeMap<WireguardKey, Traffic>,
}

/// Bytes of messages that need no answer, as the kernel counts them (WireGuard paper, 5.4.3 and 5.4.6): a keepalive, and the
/// response to a handshake.
const KEEPALIVE: u64 = 32;
const RESPONSE: u64 = 92;

/// The device as the kernel describes it, private key and preshared keys included: wiped when dropped. Copies in the
/// library's own buffers are out of reach.
struct SecretHost(Host);

/// When a peer was last heard, and last sent something that it has to answer.
#[derive(Clone, Copy)]
struct Traffic {
    rx_bytes: u64,
    tx_bytes: u64,
    received: Option<Instant>,
    sent: Option<Instant>,
}

impl KernelTunnel {
    /// No device yet. `mtu` in bytes; what fits the link to the outside where `None`.
    #[must_use]
    pub const fn new(name: String, mtu: Option<u16>) -> Self {
        Self { name, mtu, api: None, traffic: BTreeMap::new() }
    }

    fn api(&self) -> Result<&WGApi<Kernel>, TunnelError> {
        self.api.as_ref().ok_or(TunnelError::NoDevice)
    }

    fn read(&self, api: &WGApi<Kernel>) -> Result<SecretHost, TunnelError> {
        api.read_interface_data().map(SecretHost).map_err(self.attempt("read interface"))
    }

    fn configuration(&self, secret: &WireguardSecret, listen_port: u16) -> InterfaceConfiguration {
        InterfaceConfiguration {
            name: self.name.clone(),
            prvkey: STANDARD.encode(secret.private_key().bytes()),
            addresses: Vec::new(),
            port: listen_port,
            peers: Vec::new(),
            mtu: Some(self.mtu.unwrap_or_else(derived_mtu).into()),
            fwmark: None,
        }
    }

    fn attempt(&self, what: &str) -> impl FnOnce(WireguardInterfaceError) -> TunnelError {
        let what = format!("{what} `{}`", self.name);
        move |error| {
            if Path::new(KERNEL_MODULE).exists() {
                TunnelError::Kernel { what, reason: error.to_string() }
            } else {
                TunnelError::NoKernelModule
            }
        }
    }
}

impl Tunnel for KernelTunnel {
    fn create(&mut self, secret: &WireguardSecret, listen_port: u16) -> Result<(), TunnelError> {
        let mut api = WGApi::new(self.name.clone()).map_err(self.attempt("open interface"))?;
        if Path::new("/sys/class/net").join(&self.name).exists() {
            let running = self.read(&api).ok().and_then(|host| host.public_key());
            if running != Some(secret.public_key()) {
                return Err(TunnelError::NameTaken(self.name.clone()));
            }
        } else {
            api.create_interface().map_err(self.attempt("create interface"))?;
        }
        let mut configuration = self.configuration(secret, listen_port);
        let configured = api.configure_interface(&configuration).map_err(self.attempt("configure interface"));
        configuration.prvkey.zeroize();
        // Where that failed, the interface is there without our key: seen as a device that is not as wanted, it is deleted.
        self.api = Some(api);
        configured
    }

    fn set_peer(&mut self, edit: &PeerEdit) -> Result<(), TunnelError> {
        let host = self.read(self.api()?)?;
        let Some(mut peer) = merged(edit, host.0.peers.get(&Key::new(edit.public_key.0))) else { return Ok(()) };
        let configured = self.api()?.configure_peer(&peer).map_err(self.attempt("configure a peer of"));
        peer.preshared_key.iter_mut().for_each(wipe);
        configured
    }

    fn remove_peer(&mut self, key: WireguardKey) -> Result<(), TunnelError> {
        self.api()?.remove_peer(&Key::new(key.0)).map_err(self.attempt("remove a peer of"))
    }

    fn remove(&mut self) -> Result<(), TunnelError> {
        self.traffic.clear();
        // Its interface is deleted by `link` (the library's own call also rewrites the resolver's configuration), and the device is
        // there until that has worked.
        if self.api.as_ref().is_some_and(|api| self.read(api).is_err()) {
            self.api = None;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Option<TunnelState>, TunnelError> {
        let Some(api) = &self.api else { return Ok(None) };
        let host = self.read(api)?;
        let mtu = std::fs::read_to_string(Path::new("/sys/class/net").join(&self.name).join("mtu"));
        let mtu = mtu.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_MTU);
        Ok(Some(state(&host, mtu, &mut self.traffic, Instant::now(), SystemTime::now())))
    }
}

impl SecretHost {
    fn public_key(&self) -> Option<WireguardKey> {
        self.0.private_key.as_ref().map(|key| WireguardKey(key.public_key().as_array()))
    }
}

impl Drop for SecretHost {
    fn drop(&mut self) {
        wipe_host(&mut self.0);
    }
}

fn wipe_host(host: &mut Host) {
    let of_peers = host.peers.values_mut().filter_map(|peer| peer.preshared_key.as_mut());
    of_peers.chain(&mut host.private_key).for_each(wipe);
}

/// The library has no call that wipes its keys.
fn wipe(key: &mut Key) {
    *key = Key::default();
    // It is not read again, and must be written all the same.
    black_box(key);
}

/// The peer to hand to the library, which always replaces the allowed IPs: those of the kernel's peer are kept unless the edit
/// has another address. `None` when there is nothing to edit.
fn merged(edit: &PeerEdit, known: Option<&Peer>) -> Option<Peer> {
    if edit.update_only && known.is_none() {
        return None;
    }
    let mut peer = Peer::new(Key::new(edit.public_key.0));
    peer.endpoint = edit.endpoint;
    peer.persistent_keepalive_interval = edit.persistent_keepalive;
    peer.preshared_key = edit.preshared_key.as_ref().map(|psk| match psk {
        PskEdit::Set(key) => Key::new(*key.secret().bytes()),
        PskEdit::Clear => Key::new([0; 32]),
    });
    peer.allowed_ips = match (edit.address, known) {
        (Some(address), _) => vec![IpAddrMask::host(IpAddr::V4(address))],
        (None, Some(known)) => known.allowed_ips.clone(),
        (None, None) => Vec::new(),
    };
    Some(peer)
}

fn state(
    host: &SecretHost,
    mtu: u16,
    traffic: &mut BTreeMap<WireguardKey, Traffic>,
    now: Instant,
    wall: SystemTime,
) -> TunnelState {
    #[expect(clippy::disallowed_methods, reason = "what comes in random order is sorted")]
    let mut peers: Vec<ObservedPeer> = host.0.peers.values().map(|peer| observed(peer, traffic, now, wall)).collect();
    peers.sort_by_key(|peer| peer.public_key);
    let known = |key: &WireguardKey| peers.binary_search_by_key(key, |peer| peer.public_key).is_ok();
    traffic.retain(|key, _| known(key));
    TunnelState { public_key: host.public_key(), listen_port: host.0.listen_port, mtu, peers, userspace: None }
}

fn observed(
    peer: &Peer,
    traffic: &mut BTreeMap<WireguardKey, Traffic>,
    now: Instant,
    wall: SystemTime,
) -> ObservedPeer {
    let public_key = WireguardKey(peer.public_key.as_array());
    let seen = traffic.entry(public_key).or_insert(Traffic { rx_bytes: 0, tx_bytes: 0, received: None, sent: None });
    if peer.rx_bytes > seen.rx_bytes {
        seen.received = Some(now);
    }
    if calls_for_answer(peer.tx_bytes.saturating_sub(seen.tx_bytes)) {
        seen.sent = Some(now);
    }
    (seen.rx_bytes, seen.tx_bytes) = (peer.rx_bytes, peer.tx_bytes);
    let age = |at: Instant| now.saturating_duration_since(at);
    // The kernel answers "never" with the Unix epoch.
    let handshake = peer.last_handshake.filter(|at| *at > SystemTime::UNIX_EPOCH);
    ObservedPeer {
        public_key,
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.iter().filter_map(|net| IpNetwork::new(net.address, net.cidr).ok()).collect(),
        has_preshared_key: peer.preshared_key.as_ref().is_some_and(|key| key.as_array() != [0; 32]),
        preshared_with: None,
        persistent_keepalive: peer.persistent_keepalive_interval.unwrap_or(0),
        handshake_age: handshake.map(|at| wall.duration_since(at).unwrap_or(Duration::ZERO)),
        received_age: seen.received.map(age),
        sent_age: seen.sent.map(age),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

/// Whether something was among so many bytes sent that the peer has to answer: packets, or the initiation of a handshake. At most
/// one keepalive goes between two observations, 10 s after the last packet received. No packet has the length of one, nor of a
/// response, nor of both (data messages are multiples of 16 bytes, of at least 64 with an IPv4 header inside).
const fn calls_for_answer(sent: u64) -> bool {
    const BOTH: u64 = KEEPALIVE + RESPONSE;
    !matches!(sent, 0 | KEEPALIVE | RESPONSE | BOTH)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use zeroize::Zeroizing;

    use super::*;

    fn edit() -> PeerEdit {
        PeerEdit {
            public_key: WireguardKey([9; 32]),
            update_only: true,
            endpoint: Some("192.0.2.1:51821".parse().unwrap()),
            address: None,
            preshared_key: Some(PskEdit::Clear),
            persistent_keepalive: None,
        }
    }

    #[test]
    fn an_edit_keeps_the_allowed_ips_and_an_unknown_peer_stays_unknown() {
        assert!(merged(&edit(), None).is_none());
        let mut known = Peer::new(Key::new([9; 32]));
        known.allowed_ips = vec![IpAddrMask::host(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 9)))];
        let peer = merged(&edit(), Some(&known)).unwrap();
        assert_eq!(peer.allowed_ips, known.allowed_ips);
        assert_eq!(peer.preshared_key, Some(Key::new([0; 32])));
        assert_eq!(peer.persistent_keepalive_interval, None);
        let moved = merged(&PeerEdit { address: Some(Ipv4Addr::new(10, 0, 1, 8)), ..edit() }, Some(&known)).unwrap();
        assert_eq!(moved.allowed_ips, [IpAddrMask::host(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 8)))]);
    }

    #[test]
    fn the_configuration_carries_key_port_and_mtu() {
        let secret = WireguardSecret::new(Zeroizing::new([8; 32])).unwrap();
        let configuration = KernelTunnel::new("mesh0".to_owned(), None).configuration(&secret, 51821);
        let key: Key = configuration.prvkey.as_str().try_into().unwrap();
        assert_eq!(key.public_key().as_array(), secret.public_key().0);
        assert_eq!((configuration.port, configuration.mtu), (51821, Some(derived_mtu().into())));
        assert!(!format!("{configuration:?}").contains(&configuration.prvkey));
        let other = KernelTunnel::new("mesh0".to_owned(), Some(1380)).configuration(&secret, 51821);
        assert_eq!(other.mtu, Some(1380));
    }

    #[test]
    fn ages_follow_from_the_counters() {
        let mut host = SecretHost(Host::new(51821, Key::new([8; 32])));
        let mut peer = Peer::new(Key::new([9; 32]));
        peer.rx_bytes = 100;
        peer.last_handshake = Some(SystemTime::UNIX_EPOCH);
        host.0.peers.insert(peer.public_key.clone(), peer);
        let (mut traffic, start) = (BTreeMap::new(), Instant::now());
        let first = state(&host, 1420, &mut traffic, start, SystemTime::now());
        assert_eq!(first.peers[0].received_age, Some(Duration::ZERO));
        assert_eq!((first.peers[0].sent_age, first.peers[0].handshake_age), (None, None));
        let later = state(&host, 1420, &mut traffic, start + Duration::from_secs(5), SystemTime::now());
        assert_eq!(later.peers[0].received_age, Some(Duration::from_secs(5)));
        host.0.peers.clear();
        assert!(state(&host, 1420, &mut traffic, start, SystemTime::now()).peers.is_empty() && traffic.is_empty());
    }

    #[test]
    fn a_keepalive_and_a_response_need_no_answer() {
        let mut host = SecretHost(Host::new(51821, Key::new([8; 32])));
        let (mut traffic, start) = (BTreeMap::new(), Instant::now());
        let mut peer = Peer::new(Key::new([9; 32]));
        let mut sent_age_after = |at: u64, sent: u64| {
            peer.tx_bytes += sent;
            host.0.peers.insert(peer.public_key.clone(), peer.clone());
            let seen = state(&host, 1420, &mut traffic, start + Duration::from_secs(at), SystemTime::now());
            seen.peers[0].sent_age.map(|age| age.as_secs())
        };
        assert_eq!(sent_age_after(0, 92), None, "a response");
        assert_eq!(sent_age_after(10, 32), None, "a passive keepalive");
        assert_eq!(sent_age_after(20, 92 + 32), None, "a response and a keepalive");
        assert_eq!(sent_age_after(30, 148), Some(0), "an initiation");
        assert_eq!(sent_age_after(40, 32), Some(10), "a keepalive");
        assert_eq!(sent_age_after(50, 64), Some(0), "the shortest packet");
        assert_eq!(sent_age_after(60, 32 + 128), Some(0), "a keepalive and a ping");
    }

    #[test]
    fn secrets_are_wiped() {
        let mut host = Host::new(51821, Key::new([8; 32]));
        for byte in [1, 2] {
            let mut peer = Peer::new(Key::new([byte; 32]));
            peer.preshared_key = Some(Key::new([9; 32]));
            host.peers.insert(peer.public_key.clone(), peer);
        }
        wipe_host(&mut host);
        assert_eq!((host.private_key, host.peers.len()), (Some(Key::default()), 2));
        assert!(host.peers.into_values().all(|peer| peer.preshared_key == Some(Key::default())));
    }

    #[test]
    fn a_missing_module_says_what_to_do() {
        assert!(TunnelError::NoKernelModule.hint().unwrap().contains("modprobe wireguard"));
    }
}
