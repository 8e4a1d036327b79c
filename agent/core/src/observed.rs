//! The state of this machine: the device, its peers and the guard, read again before every diff.

use std::{net::Ipv4Addr, net::SocketAddr, num::NonZeroU8, time::Duration};

use ipnetwork::IpNetwork;

use crate::{
    id::{MemberKey, WireguardKey},
    network::MeshNetwork,
    status::{DroppedPackets, Offloads},
};

/// One observation of this machine. Carries ages instead of timestamps, so that no clock is needed to read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The mesh network that was asked about, where its blackhole route is in place.
    pub guard_route: Option<MeshNetwork>,
    /// The network that our packet filter table guards, where all of it is as it should be.
    pub guard_table: Option<MeshNetwork>,
    /// A blackhole route of ours for another network: what was guarded before the contract's network was known.
    pub stale_guard_route: Option<MeshNetwork>,
    /// A route or address of another program inside or around the mesh network, in words: packets for the mesh may leave by it,
    /// outside of the tunnel.
    pub overlap: Option<String>,
    /// The device, when there is one.
    pub device: Option<ObservedDevice>,
}

/// The WireGuard device and its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDevice {
    /// Public key it runs with.
    pub public_key: Option<WireguardKey>,
    /// UDP port it listens on.
    pub listen_port: u16,
    /// Interface MTU, bytes.
    pub mtu: u16,
    /// Interface is up.
    pub up: bool,
    /// Mesh address on the interface.
    pub address: Option<Ipv4Addr>,
    /// Every peer on the device.
    pub peers: Vec<ObservedPeer>,
    /// What a device in this process reports besides; `None` for the kernel's.
    pub userspace: Option<UserspaceDevice>,
}

/// What only a device in this process can report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserspaceDevice {
    /// Threads for each direction.
    pub threads: NonZeroU8,
    /// What is left to the kernel now.
    pub offloads: Offloads,
    /// What may be.
    pub offloads_allowed: Offloads,
    /// The packets that were dropped since the device was created.
    pub dropped: DroppedPackets,
}

/// One peer on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPeer {
    /// Its key.
    pub public_key: WireguardKey,
    /// Where its packets go now: configured or roamed to.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses it owns.
    pub allowed_ips: Vec<IpNetwork>,
    /// A preshared key is set.
    pub has_preshared_key: bool,
    /// The member key it was derived with, where this process has set it; the device itself does not know.
    pub preshared_with: Option<MemberKey>,
    /// Seconds between keepalives, 0 = off.
    pub persistent_keepalive: u16,
    /// Age of the last completed handshake.
    pub handshake_age: Option<Duration>,
    /// Age of the last authenticated packet received.
    pub received_age: Option<Duration>,
    /// Age of the last packet sent that the peer has to answer: no keepalive, which nothing answers.
    pub sent_age: Option<Duration>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}
