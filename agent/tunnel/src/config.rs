//! The device's configuration and state. An update has the meaning of a UAPI `set=1`: a field that is `None` stays as it is, and a
//! peer that exists is edited, never replaced.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::packet_link::PacketLink;
use crate::path::Watch;

/// The inner MTU that fits WireGuard's 80 bytes of overhead on IPv6 into 1,500 bytes.
pub const DEFAULT_MTU: u16 = 1420;

/// The options with which a device is made.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Interface name: 1 to 15 bytes.
    pub name: String,
    /// Inner MTU in bytes. `None`: the one that fits the links to the outside, at most [`DEFAULT_MTU`]. It can be changed on the
    /// interface at any time.
    pub mtu: Option<u16>,
    /// Whether to answer `wg` on `/var/run/wireguard/<name>.sock` (mode 0600; its `get` shows the private key).
    pub uapi: bool,
    /// Threads for each direction, each with an interface queue and UDP sockets of its own. One is best for up to two processors.
    /// More help with several peers, not with one: all datagrams of a peer arrive at one thread, which alone opens them, and
    /// several threads that seal for it would send them out of order.
    pub threads: NonZeroU8,
    /// The offloads that may be used; one that the kernel refuses is not ([`DeviceState::offloads`] has those in use).
    pub offloads: Offloads,
    /// The watcher, which learns the paths that packets take; `None`: there is none.
    pub watch: Option<Watch>,
    /// Where its packets come out in clear.
    pub inside: Inside,
}

/// Where a device's packets come out in clear.
#[derive(Clone, Debug)]
pub enum Inside {
    /// At a TUN interface, which needs `/dev/net/tun` and the capability NET_ADMIN.
    Interface,
    /// At a TCP/IP stack in this process, which needs no privileges. The device's name is only one for the logs then, and
    /// [`DeviceOptions::uapi`] needs the rights to make its socket.
    Memory(PacketLink),
}

impl DeviceOptions {
    /// The usual options: UAPI, one thread for each direction, every offload, an MTU that fits the links, no watcher.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let threads = NonZeroU8::MIN;
        Self {
            name: name.into(),
            mtu: None,
            uapi: true,
            threads,
            offloads: Offloads::ALL,
            watch: None,
            inside: Inside::Interface,
        }
    }
}

/// The mechanisms by which many packets are worked on at once: those of the kernel, which takes and gives them, and the cipher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// The interface carries TCP superpackets (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tun_tso: bool,
    /// The interface carries UDP superpackets (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub tun_uso: bool,
    /// Datagrams are sent many at a time (`UDP_SEGMENT`; Linux 4.18).
    pub udp_gso: bool,
    /// Datagrams are received many at a time (`UDP_GRO`; Linux 5.0).
    pub udp_gro: bool,
    /// Packets are sealed and opened many at a time (AVX-512 with IFMA, or AVX2).
    pub batch_aead: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Self = Self { tun_tso: true, tun_uso: true, udp_gso: true, udp_gro: true, batch_aead: true };

    /// None of them: one packet for each system call and each call of the cipher.
    pub const NONE: Self = Self { tun_tso: false, tun_uso: false, udp_gso: false, udp_gro: false, batch_aead: false };

    /// The name and value of each.
    #[must_use]
    pub const fn each(self) -> [(&'static str, bool); 5] {
        [
            ("tun_tso", self.tun_tso),
            ("tun_uso", self.tun_uso),
            ("udp_gso", self.udp_gso),
            ("udp_gro", self.udp_gro),
            ("batch_aead", self.batch_aead),
        ]
    }

    /// The same without the one of that name; `None` where there is no such name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Option<Self> {
        let offload = match name {
            "tun_tso" => &mut self.tun_tso,
            "tun_uso" => &mut self.tun_uso,
            "udp_gso" => &mut self.udp_gso,
            "udp_gro" => &mut self.udp_gro,
            "batch_aead" => &mut self.batch_aead,
            _ => return None,
        };
        *offload = false;
        Some(self)
    }
}

/// One change of a device, applied as a whole: where it fails (for example because the port is in use), nothing is changed.
#[derive(Debug, Default)]
pub struct DeviceUpdate {
    /// New private key; all zeros remove the key. Another key ends every session, and a peer with the new public key is removed.
    /// The same key again changes nothing.
    pub private_key: Option<PrivateKey>,
    /// New UDP port for IPv4 and IPv6; 0: the system chooses a free one.
    pub listen_port: Option<u16>,
    /// Mark of the outgoing datagrams (`SO_MARK`); 0 is none.
    pub fwmark: Option<u32>,
    /// Remove every peer before applying `peers`.
    pub replace_peers: bool,
    /// Changes of single peers, in order.
    pub peers: Vec<PeerUpdate>,
}

/// One change of a peer, which is added if it does not exist.
#[derive(Debug)]
pub struct PeerUpdate {
    /// The peer. An update of the device's own key is ignored, as in every implementation.
    pub public_key: PublicKey,
    /// Remove the peer: its sessions end at once, and no packet from it is accepted after [`crate::Device::apply`] has returned.
    pub remove: bool,
    /// Do nothing where the peer does not exist.
    pub update_only: bool,
    /// New preshared key; all zeros mean none. It is used from the next handshake on; the current session stays.
    pub preshared_key: Option<PresharedKey>,
    /// New endpoint. A peer without a session begins a handshake at once; of thousands of peers, 512 at a time.
    pub endpoint: Option<SocketAddr>,
    /// Interval of the persistent keepalive in seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// Remove the peer's allowed IPs before adding `allowed_ips`.
    pub replace_allowed_ips: bool,
    /// Networks to take from this peer, before those of `allowed_ips` are added. One that it does not have stays with the peer that
    /// has it.
    pub removed_allowed_ips: Vec<IpNetwork>,
    /// Networks to add; one that another peer has is moved to this one.
    pub allowed_ips: Vec<IpNetwork>,
}

impl PeerUpdate {
    /// An update of `public_key` that adds the peer and changes nothing else: the caller sets further fields.
    #[must_use]
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            removed_allowed_ips: Vec::new(),
            allowed_ips: Vec::new(),
        }
    }
}

/// The device's current state, without secrets.
#[derive(Clone, Debug)]
pub struct DeviceState {
    /// `None` while it has no private key.
    pub public_key: Option<PublicKey>,
    /// UDP port, never 0.
    pub listen_port: u16,
    /// Mark of outgoing datagrams; 0 is none.
    pub fwmark: u32,
    /// The interface's MTU in bytes, read in the namespace where the interface is now.
    pub mtu: u16,
    /// Threads for each direction.
    pub threads: NonZeroU8,
    /// The offloads in use.
    pub offloads: Offloads,
    /// The length in bytes of the kernel's superpackets at most, so that each is sent as one message; `None` where the kernel does
    /// not let it be set.
    pub gso_max_size: Option<u32>,
    /// Sorted by public key.
    pub peers: Vec<PeerState>,
    /// The packets that were dropped since the device was made.
    pub drops: Drops,
}

/// A peer's current state.
#[derive(Clone, Debug)]
pub struct PeerState {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// Whether a preshared key is set.
    pub has_preshared_key: bool,
    /// Where UDP datagrams to it are sent: the configured address, or the one where a round trip last proved it to be.
    pub endpoint: Option<SocketAddr>,
    /// The largest inner packet that the path to that endpoint carries, in bytes, as its probes found: the interface's MTU, or less.
    /// `None` where the peer acknowledged none, because no large packet went by UDP, or because it does not know probes.
    pub path_mtu: Option<u16>,
    /// Interval of the persistent keepalive in seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Sorted.
    pub allowed_ips: Vec<IpNetwork>,
    /// When the last handshake was completed by either side.
    pub last_handshake: Option<SystemTime>,
    /// Age of the last datagram that proved that the peer is up: data, a keepalive, or the response to a handshake. A handshake
    /// that the peer initiated counts from the session's first use, because the initiation may have been a replay.
    pub last_received: Option<Duration>,
    /// Age of the last data packet that was sent, keepalives not counted.
    pub last_sent: Option<Duration>,
    /// Bytes of the authenticated datagrams received, headers of UDP and IP not counted.
    pub rx_bytes: u64,
    /// Bytes of the datagrams sent, headers of UDP and IP not counted.
    pub tx_bytes: u64,
}

/// Packets that the device dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From the interface: the destination is in no peer's allowed IPs, or it is no IP packet.
    pub no_peer: u64,
    /// From the interface: there is no path to the peer, it has a low-order key, its queue was full, the packet is longer than the path
    /// carries and must not be fragmented (its sender was told), or it has the port that is reserved for the device's owner
    /// ([`Watch::tap`]).
    pub unsendable: u64,
    /// From the network: not a WireGuard message for this device, or one that failed authentication.
    pub unauthenticated: u64,
    /// From the network: handshakes answered with a cookie or not at all, because there were too many.
    pub under_load: u64,
    /// From the network: authenticated, but the inner source address belongs to another peer or to none.
    pub source_refused: u64,
    /// The system refused the datagram (to the network) or the packet (to the interface).
    pub io_failed: u64,
}
