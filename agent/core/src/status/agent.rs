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
    /// How the userspace device works on many packets at once now; `None` while there is none.
    pub offloads: Option<Offloads>,
    /// What of it is allowed. What is not in use all the same, the kernel refused, or the processor does not have: the device works, more
    /// slowly. `None` while there is no userspace device.
    pub offloads_allowed: Option<Offloads>,
    /// Packets that the userspace device dropped since it was created; `None` while there is none.
    pub dropped_packets: Option<DroppedPackets>,
    /// Where TLS of members is ended for applications of this machine; the shell fills it in.
    #[serde(default)]
    pub fronts: Vec<FrontStatus>,
    /// How applications reach members through this process; `None` where they do not. The shell fills it in.
    #[serde(default)]
    pub proxy: Option<ProxyStatus>,
}

/// One front, with what it has done since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontStatus {
    /// `ADDR:PORT` at which members arrive.
    pub listen: String,
    /// `ADDR:PORT` or `unix:/PATH` of the application.
    pub target: String,
    /// Connections of members that are open now.
    pub open: u64,
    /// Connections of members that were let in.
    pub accepted: u64,
    /// Callers that were not let in: no member, no or a slow handshake, too many connections.
    pub refused: u64,
    /// Connections that ended because the member may not talk any more.
    pub cut_off: u64,
    /// Connections of members that the application did not accept.
    pub target_failed: u64,
    /// The application did not accept the last one.
    pub is_target_down: bool,
}

/// The proxy and the forwards together, with what they have done since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Connections that are open now.
    pub open: u64,
    /// Connections of applications that were taken.
    pub accepted: u64,
    /// Of which this many were led to no member.
    pub refused: u64,
}

impl AgentStatus {
    /// Names of the offloads that are allowed and that the kernel refused.
    pub fn refused_offloads(&self) -> impl Iterator<Item = &'static str> + use<> {
        // The cipher asks the kernel for nothing.
        let allowed = self.offloads_allowed.map(|allowed| Offloads { batch_aead: false, ..allowed });
        let both = allowed.zip(self.offloads);
        let pairs = both.into_iter().flat_map(|(allowed, used)| allowed.each().into_iter().zip(used.each()));
        pairs.filter(|((_, allowed), (_, used))| *allowed && !used).map(|((name, _), _)| name)
    }
}

/// The ways in which a userspace device works on many packets at once: those in which the kernel takes and gives them, and the cipher's.
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
    /// Packets sealed and opened many at a time, which takes a processor with AVX-512 or AVX2; `false` of an agent of before.
    #[serde(default)]
    pub batch_aead: bool,
}

impl Offloads {
    /// Each with its name, in the order of the fields.
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
