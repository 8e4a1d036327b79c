//! The agent's process and its device.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

/// The agent process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Crate version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Process start.
    pub started_at: String,
    /// Whole seconds since then.
    pub uptime_s: u64,
    /// `userspace`, `kernel`, or `none` for a node of kind `tls`.
    pub dataplane: String,
    /// Interface name, e.g. `mesh0`; `None` for a node of kind `tls`.
    pub interface: Option<String>,
    /// UDP port; `None` while there is no device.
    pub listen_port: Option<u16>,
    /// Tunnel MTU in bytes; `None` while there is no device.
    pub mtu: Option<u16>,
    /// Threads for each direction; `None` while there is no userspace device.
    pub threads: Option<NonZeroU8>,
    /// Connections through gateways that are open or being made; `None` where there can be none.
    pub gateway_connections: Option<usize>,
    /// What the userspace device leaves to the kernel now; `None` while there is none.
    pub offloads: Option<Offloads>,
    /// What it may leave to the kernel. What is allowed and not in use, the kernel refused: the device works all the same, more
    /// slowly. `None` while there is no userspace device.
    pub offloads_allowed: Option<Offloads>,
    /// Packets that the userspace device dropped since it was created; `None` while there is none.
    pub dropped_packets: Option<DroppedPackets>,
}

impl AgentStatus {
    /// Names of the offloads that are allowed and that the kernel refused.
    pub fn refused_offloads(&self) -> impl Iterator<Item = &'static str> + use<> {
        let both = self.offloads_allowed.zip(self.offloads);
        let pairs = both.into_iter().flat_map(|(allowed, used)| allowed.each().into_iter().zip(used.each()));
        pairs.filter(|((_, allowed), (_, used))| *allowed && !used).map(|((name, _), _)| name)
    }
}

/// The ways in which the kernel takes and gives a userspace device many packets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// TCP superpackets on the interface.
    pub tun_tso: bool,
    /// UDP superpackets on the interface.
    pub tun_uso: bool,
    /// Datagrams sent many at a time.
    pub udp_gso: bool,
    /// Datagrams received many at a time.
    pub udp_gro: bool,
}

impl Offloads {
    /// Each with its name, in the order of the fields.
    #[must_use]
    pub const fn each(self) -> [(&'static str, bool); 4] {
        [("tun_tso", self.tun_tso), ("tun_uso", self.tun_uso), ("udp_gso", self.udp_gso), ("udp_gro", self.udp_gro)]
    }
}

/// Packets that a userspace device dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPackets {
    /// From the interface: the destination is no peer's, or it is no IP packet.
    pub no_peer: u64,
    /// From the interface: its peer cannot be sent to, or too many waited for a session.
    pub unsendable: u64,
    /// From the network: not a message of WireGuard's, or one that failed authentication.
    pub unauthenticated: u64,
    /// From the network: handshakes put off because too many came in.
    pub under_load: u64,
    /// From the network: authenticated, with an inner source address that is not its peer's.
    pub source_refused: u64,
    /// The system did not take it.
    pub io_failed: u64,
}

impl DroppedPackets {
    /// Each with its name, in the order of the fields.
    #[must_use]
    pub const fn each(self) -> [(&'static str, u64); 6] {
        [
            ("no_peer", self.no_peer),
            ("unsendable", self.unsendable),
            ("unauthenticated", self.unauthenticated),
            ("under_load", self.under_load),
            ("source_refused", self.source_refused),
            ("io_failed", self.io_failed),
        ]
    }
}
