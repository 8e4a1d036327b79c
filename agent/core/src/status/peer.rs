//! One peer, its paths, and why one of them is not as it should be.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceId, TlsKey, TokenId, WireguardKey},
    registration::NetworkType,
};

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its token.
    pub token_id: TokenId,
    /// `node-<token>` or the configured name.
    pub name: String,
    /// Its mesh address.
    pub address: Ipv4Addr,
    /// Its WireGuard public key.
    pub public_key: WireguardKey,
    /// The TLS key by which it is known, where it registered one.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// Decided by authenticated packets, not by handshake age.
    pub state: PeerState,
    /// When this state began.
    pub state_since: String,
    /// Times it left `up`/`idle` in the last hour, but for those at which it said that it stops.
    pub flaps_1h: u32,
    /// Whether a preshared key protects recorded handshakes (same app id only).
    pub preshared_key: bool,
    /// The three layers.
    pub agreement: Agreement,
    /// The path in use: `direct` or `gateway`.
    pub path: Option<PathKind>,
    /// Where packets go now.
    pub endpoint: Option<String>,
    /// Why the better path is not in use.
    pub path_reason: Option<Reason>,
    /// Packets go by more than one path, because the one in use is in doubt; `None` where nothing is known of paths.
    pub hedged: Option<bool>,
    /// How often packets took another path since this node knows the peer.
    pub path_switches: Option<u64>,
    /// Every path known, best first.
    pub paths: Vec<PathStatus>,
    /// Last handshake.
    pub last_handshake_at: Option<String>,
    /// Seconds since then.
    pub handshake_age_s: Option<f64>,
    /// Seconds since the last authenticated packet.
    pub last_seen_s: Option<f64>,
    /// Round trip inside the tunnel.
    pub rtt_ms: Option<f64>,
    /// Lost probes, percent.
    pub loss_pct: Option<f64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

/// The state of a peer, decided by authenticated packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// An authenticated packet arrived within the window.
    Up,
    /// Nothing to say, the last keepalive was answered.
    Idle,
    /// Sending without receiving.
    Suspect,
    /// No packet from it yet.
    Connecting,
    /// Nothing from it for too long.
    Down,
    /// Its agent said that it stops, and was not heard of since.
    Stopped,
    /// On the device, no longer wanted.
    Removing,
}

impl PeerState {
    /// As in JSON: the word for logs, labels and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Idle => "idle",
            Self::Suspect => "suspect",
            Self::Connecting => "connecting",
            Self::Down => "down",
            Self::Stopped => "stopped",
            Self::Removing => "removing",
        }
    }
}

/// What a node is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// It has an address in the mesh network.
    Wireguard,
    /// Its application has an https URL behind the dstack gateway.
    Tls,
}

impl NodeKind {
    /// As it registers.
    #[must_use]
    pub const fn of(network_type: NetworkType) -> Self {
        match network_type {
            NetworkType::Wireguard => Self::Wireguard,
            NetworkType::TlsGateway => Self::Tls,
        }
    }

    /// As in JSON: the word for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Tls => "tls",
        }
    }
}

/// A peer that this node has no tunnel with. Nothing is sent to it, so that nothing is known of its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherPeer {
    /// Its token.
    pub token_id: TokenId,
    /// `node-<token>` or the configured name.
    pub name: String,
    /// What it is in the mesh.
    pub kind: NodeKind,
    /// Its CVM.
    pub instance_id: InstanceId,
    /// The TLS key by which it is known: always there for a peer of kind `tls`; `None` of an agent of before.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// `https://<instance>-<port>s.<domain>`; `None` without a place behind a base domain of the contract, and for a peer of kind
    /// `wireguard`, whose place serves no https.
    pub url: Option<String>,
}

/// The three layers of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Verified in the registry.
    pub in_registry: bool,
    /// Wanted on the device.
    pub in_config: bool,
    /// Reported by the device.
    pub on_device: bool,
}

/// Kinds of path to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// UDP straight to the peer.
    Direct,
    /// Framed in TLS through the dstack gateway.
    Gateway,
}

impl PathKind {
    /// As in JSON: the word for logs, labels and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Gateway => "gateway",
        }
    }
}

/// One path to one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Which kind.
    pub kind: PathKind,
    /// Where it leads.
    pub endpoint: Option<String>,
    /// Packets may rely on it.
    pub usable: bool,
    /// Why not, when not.
    pub reason: Option<Reason>,
    /// The same in words, where there are more to say.
    pub detail: Option<String>,
    /// Last round trip inside the tunnel that was proved; where nothing probes, last authenticated packet.
    pub last_ok_at: Option<String>,
    /// Seconds since then.
    pub last_ok_s: Option<f64>,
    /// Round trip by it.
    pub rtt_ms: Option<f64>,
    /// Lost probes, percent.
    pub loss_pct: Option<f64>,
    /// Largest inner packet it carried.
    pub mtu: Option<u16>,
    /// Seconds until the next try: a probe, or a dial where there is no connection.
    pub next_probe_s: Option<f64>,
    /// Probes in a row that were not answered.
    pub unanswered: Option<u32>,
    /// Seconds since the first of these.
    pub unanswered_s: Option<f64>,
    /// How many of these reached the peer, as far as it has reported by any path.
    pub peer_got: Option<u32>,
    /// Seconds since the peer heard this node by it, as it last reported.
    pub peer_heard_s: Option<f64>,
    /// Seconds since the last packet of the peer by it.
    pub heard_s: Option<f64>,
    /// How often it failed while it was in use, since it was last in use for five minutes without a fault.
    pub falls: Option<u32>,
    /// Seconds until packets return to it, if it stays as clean as it is.
    pub returns_in_s: Option<f64>,
    /// Seconds since it was connected, for a path that is.
    pub connected_s: Option<f64>,
    /// Seconds until its connection is replaced at the latest, where this node does it.
    pub redial_in_s: Option<f64>,
}

/// Why something is not as it should be: a closed list, used in status, logs and metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation, and docs/operating.md explains each")]
pub enum Reason {
    DirectUdpSilent,
    DirectSmallOnly,
    DirectOneWay,
    DirectLossy,
    NoEndpoint,
    GatewayDns,
    GatewayUnreachable,
    GatewayTls,
    GatewayPortPolicy,
    GatewayLimit,
    GatewaySilent,
    GatewayBroken,
    GatewayLossy,
    HandshakeRefused,
    KeyMismatch,
    NotInRegistry,
    NotActive,
    PeerStopped,
    RegistryStale,
    SourceDisagree,
    AddrConflict,
    ClockSkew,
    SelfFenced,
    TunMissing,
    PermNetAdmin,
    UdpBind,
}

impl Reason {
    /// As in JSON, logs and metric labels.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::DirectUdpSilent => "direct_udp_silent",
            Self::DirectSmallOnly => "direct_small_only",
            Self::DirectOneWay => "direct_one_way",
            Self::DirectLossy => "direct_lossy",
            Self::NoEndpoint => "no_endpoint",
            Self::GatewayDns => "gateway_dns",
            Self::GatewayUnreachable => "gateway_unreachable",
            Self::GatewayTls => "gateway_tls",
            Self::GatewayPortPolicy => "gateway_port_policy",
            Self::GatewayLimit => "gateway_limit",
            Self::GatewaySilent => "gateway_silent",
            Self::GatewayBroken => "gateway_broken",
            Self::GatewayLossy => "gateway_lossy",
            Self::HandshakeRefused => "handshake_refused",
            Self::KeyMismatch => "key_mismatch",
            Self::NotInRegistry => "not_in_registry",
            Self::NotActive => "not_active",
            Self::PeerStopped => "peer_stopped",
            Self::RegistryStale => "registry_stale",
            Self::SourceDisagree => "source_disagree",
            Self::AddrConflict => "addr_conflict",
            Self::ClockSkew => "clock_skew",
            Self::SelfFenced => "self_fenced",
            Self::TunMissing => "tun_missing",
            Self::PermNetAdmin => "perm_net_admin",
            Self::UdpBind => "udp_bind",
        }
    }
}
