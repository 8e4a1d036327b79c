//! The agent's inputs: who it is, what the operator decided, and every fact of the outside world.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::CachedRegistry;
use crate::{
    diff::Change,
    freshness::{Deadlines, Witnesses},
    gate::WITNESSES,
    gateway_access::GatewayAccess,
    id::{Address, AppId, B256, InstanceId, TlsKey, TokenId, WireguardKey},
    key_claim::GuestApi,
    network::MeshNetwork,
    observed::Observed,
    path,
    place::{Domain, OwnPlace},
    registration::{NetworkType, Proof},
    registry::Registry,
    status::{Quorum, Reason, RegistrationOffer, SourceStatus},
    wei::Wei,
};

/// One reading of both clocks, taken by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic time since the agent was made: for every interval and deadline.
    pub since_start: Duration,
    /// Wall clock since the Unix epoch: for block timestamps and for people, never for intervals.
    pub unix: Duration,
}

/// What this node is: found out once at start-up, by the shell.
#[derive(Debug, Clone)]
pub struct LocalNode {
    /// From the guest agent's `Info`.
    pub instance: InstanceId,
    /// From the guest agent's `Info`.
    pub app_id: AppId,
    /// Recovered from the own `GetKey` chain.
    pub kms_root: Address,
    /// Address of the node key, which proves that an instance of the app signed a registration.
    pub node_address: Address,
    /// The guest API that gave the node key.
    pub node_key_api: GuestApi,
    /// The guest API that is used for everything but keys.
    pub guest_api: GuestApi,
    /// Address of the member key: what the contract pins, and what pays for this node's transactions.
    pub member_address: Address,
    /// What it is in the mesh.
    pub network_type: NetworkType,
    /// Own WireGuard public key; 32 zero bytes for [`NetworkType::TlsGateway`].
    pub wireguard_key: WireguardKey,
    /// Own TLS key, which it registers: always there for [`NetworkType::TlsGateway`], and for a WireGuard node where its operator asked
    /// for one.
    pub tls_key: Option<TlsKey>,
    /// From the guest agent's `Info`.
    pub compose_hash: Option<B256>,
    /// The guest agent says it is a simulator.
    pub simulated: bool,
    /// What the app's deployment document says of the gateway; `None` where the guest agent does not show it.
    pub gateway_access: Option<GatewayAccess>,
    /// The cluster contract.
    pub contract: Address,
    /// Crate version, for the status.
    pub version: String,
    /// Process id, for the status.
    pub pid: u32,
    /// Interface name.
    pub interface: String,
    /// `userspace` or `kernel`.
    pub dataplane: String,
    /// Its application ends TLS itself, by whatever key and whatever certificate: no front of the agent's is before it.
    pub application_ends_tls: bool,
}

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The token to register for; otherwise the one bound to this instance.
    pub token: Option<TokenId>,
    /// UDP port of the device.
    pub listen_port: u16,
    /// Endpoint to register.
    pub endpoint: OwnEndpoint,
    /// The place behind the dstack gateway to register; always there for [`NetworkType::TlsGateway`].
    pub place: Option<OwnPlace>,
    /// Seconds between keepalives to every peer.
    pub keepalive: u16,
    /// Blocks on top of a registration before its peer is added; removals never wait.
    pub confirmations: u64,
    /// KMS roots trusted besides the own one.
    pub trusted_kms_roots: Vec<Address>,
    /// App ids trusted besides the own one.
    pub trusted_app_ids: Vec<AppId>,
    /// When a view of the contract is so old that `on_expiry` happens.
    pub deadlines: Deadlines,
    /// What happens then.
    pub on_expiry: OnExpiry,
    /// How many sources must agree, for the status until the first read reports it.
    pub quorum: usize,
    /// The operator's own source decides, so that there is only one is no warning.
    pub trusted_source: bool,
    /// Configured peer names.
    pub names: BTreeMap<TokenId, String>,
    /// What the operator must have allowed besides the contract.
    pub allowed: Allowed,
    /// What stood on this machine before the agent was made; `None` for [`NetworkType::TlsGateway`].
    pub guard: Option<Guard>,
}

/// The part of [`Policy`] that may change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustments {
    /// See [`Policy::names`].
    pub names: BTreeMap<TokenId, String>,
    /// See [`Policy::keepalive`].
    pub keepalive: u16,
    /// See [`Policy::deadlines`].
    pub deadlines: Deadlines,
    /// See [`Policy::on_expiry`].
    pub on_expiry: OnExpiry,
}

impl Policy {
    /// That part, as it is.
    #[must_use]
    pub fn adjustments(&self) -> Adjustments {
        let Self { names, keepalive, deadlines, on_expiry, .. } = self;
        Adjustments { names: names.clone(), keepalive: *keepalive, deadlines: *deadlines, on_expiry: *on_expiry }
    }
}

/// What the contract, as RPC endpoints report it, may decide for this machine and its applications. No signature covers any of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The only mesh network that is believed. Without it, the first one read, if it is private, and no other after that.
    pub mesh_network: Option<MeshNetwork>,
    /// Base domains of gateways that URLs may be made of, besides the one of [`Policy::place`].
    pub gateway_domains: Vec<Domain>,
    /// Development URLs may be shown to applications.
    pub dev_urls: bool,
}

/// What keeps packets of the mesh network inside of the tunnel, and strangers out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The mesh network, as it was known at the start. What the contract says counts once it is read.
    pub network: MeshNetwork,
    /// There is a packet filter table besides the blackhole route.
    pub table: bool,
}

/// Where this node is reached by UDP, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnEndpoint {
    /// At this address.
    Known(SocketAddr),
    /// Nowhere, by the operator's choice: none is registered, and one on record is taken back.
    None,
    /// Not known yet, and being looked up: what is on record stays, and a registration waits.
    Searching,
    /// Not known, because the look-up failed: what is on record stays, and a registration goes without.
    NotFound,
}

impl OwnEndpoint {
    /// The address, where it is known.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Known(address) => Some(address),
            Self::None | Self::Searching | Self::NotFound => None,
        }
    }
}

/// What happens when the contract could not be read for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    /// Remove every peer and the own address: a revoked peer that controls the network gains nothing.
    FailClosed,
    /// Go on with the last verified peers.
    Static,
}

/// A fact for the agent.
#[derive(Debug)]
pub enum Input {
    /// Something may have changed on chain (another epoch, an event, an endpoint that answers again): a hint to read, nothing more.
    Hint,
    /// The answer to [`super::Command::ReadRegistry`]: an agreed read, with what each source answered.
    Registry(Box<Registry>, SourceReport),
    /// The answer to [`super::Command::ReadRegistry`]: no agreement.
    ReadFailed(String, SourceReport),
    /// The answer to [`super::Command::FetchProofs`]: each proof found, or why not. Where sources differ, a token has several
    /// answers: the first that proves its record counts.
    Proofs(Vec<(TokenId, Result<Box<Proof>, String>)>),
    /// The answer to [`super::Command::Observe`], and spontaneous ones (an interface vanished).
    Observed(Observed),
    /// The answer to [`super::Command::Observe`]: the machine could not be observed, and why. The last observation stands, and
    /// ages.
    ObserveFailed(String),
    /// [`super::Command::Apply`] is done. The agent looks again before it goes on.
    Applied(Applied),
    /// A registration or endpoint update was signed and is on offer.
    Offered {
        /// What the local API shows.
        offer: RegistrationOffer,
        /// The hash of the transaction in which this node has submitted it, or why it has not.
        submitted: Result<B256, NotSubmitted>,
    },
    /// The answer to [`super::Command::Offer`]: it could not be signed, and why.
    OfferFailed(String),
    /// The answer to [`super::Command::ReadBalance`]; `None` where too few RPC endpoints said anything.
    Balance(Option<Wei>),
    /// The answer to [`super::Command::Save`]: why the registry is not on disk, when it is not.
    Saved(Result<(), String>),
    /// The operator has decided again.
    Adjusted(Box<Adjustments>),
    /// Where this node is reached became known, or has changed.
    OwnEndpoint(OwnEndpoint),
    /// How the paths to the peers are: once a second at most, and at once when packets take another one.
    Paths(Box<PathsSeen>),
    /// A verified registry of an earlier run, read from disk: the very first input, if there is one.
    Cached(Box<CachedRegistry>),
    /// A datagram came to [`crate::news::PORT`] from this mesh address, which the tunnel has proved to be the peer's, and from the same port.
    Told {
        /// The peer's mesh address.
        from: Ipv4Addr,
        /// As it came.
        datagram: Vec<u8>,
    },
    /// Whether this node can send and hear news, or why it cannot.
    NewsPort(Result<(), String>),
    /// The time of `poll_timeout` has come.
    Timeout,
    /// The answer to [`super::Command::TellPeers`].
    PeersTold,
    /// An orderly stop was asked for.
    Shutdown,
}

/// Why this node did not submit its offer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSubmitted {
    /// In words.
    pub reason: String,
    /// What to do, where no relayer could submit it either: the contract would refuse it.
    pub remedy: Option<String>,
    /// No RPC endpoint took it: they may take the next one.
    pub is_unheard: bool,
    /// What the member address had, where that was too little.
    pub balance: Option<Wei>,
}

/// The paths to all peers of [`super::Command::SetPathPeers`], at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PathsSeen {
    /// When, on the monotonic clock ([`Now::since_start`]): every age in it is as of then.
    pub at: Duration,
    /// Each peer; nothing is known of one that is missing.
    pub peers: BTreeMap<TokenId, PeerPaths>,
    /// Streams through gateways that are open or being made, strangers' included; `None` where there can be none.
    pub streams: Option<usize>,
    /// Which peers' packets took another path since the last report, oldest first.
    pub switches: Vec<(TokenId, path::Switch)>,
    /// When a gateway last began a connection to this node with a PROXY protocol header, on the same clock, and that in words; `None`
    /// where a node that dialed was understood since.
    pub proxy_header: Option<(Duration, String)>,
}

/// The paths to one peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerPaths {
    /// What its probes measured.
    pub report: path::Report,
    /// Where direct UDP goes.
    pub direct: Option<SocketAddr>,
    /// Its stream; `None` for a peer that has no place and has not connected.
    pub gateway: Option<GatewaySeen>,
}

/// The stream to one peer, or the attempts to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySeen {
    /// `tls://<instance>-<port>s.<host>:<the gateway's port>`.
    pub endpoint: String,
    /// The base domain by which the two meet: that of the endpoint where this node dials, its own where the peer does.
    pub domain: String,
    /// There is a stream.
    pub is_open: bool,
    /// For how long, if there is.
    pub open_for: Option<Duration>,
    /// Why there is none, as a code.
    pub reason: Option<Reason>,
    /// The same in words.
    pub words: Option<String>,
    /// Time until the peer is dialled: for a first stream, or to replace the one there is. `None` where the peer dials.
    pub next_dial: Option<Duration>,
}

/// The outcome of a round of changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Those that were made, in order; with a failure beside them not all.
    pub made: Vec<Change>,
    /// The first that failed.
    pub failed: Option<ApplyError>,
}

/// Why a change could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {change}: {reason}")]
pub struct ApplyError {
    /// The change, as printed.
    pub change: String,
    /// The system's error.
    pub reason: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// What every source answered at a read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceReport {
    /// Each source.
    pub sources: Vec<SourceStatus>,
    /// Needed and had.
    pub quorum: Quorum,
    /// Sources contradicted each other (not merely failed).
    pub disagree: bool,
    /// The contract's code, where it is not the one whose storage this version knows.
    pub other_code: Option<Address>,
}

impl SourceReport {
    /// Which sources say that the block of the agreed read is the newest. Where one knows a newer one, those that gave the read lag
    /// behind it.
    pub(super) fn witnesses(&self) -> Witnesses {
        let mut agreeing = self.sources.iter().filter(|source| source.agrees == Some(true));
        if self.quorum.have < WITNESSES {
            Witnesses::One
        } else if self.disagree || agreeing.any(|source| source.lag_blocks.is_some_and(|lag| lag > 0)) {
            Witnesses::Several
        } else {
            Witnesses::All
        }
    }
}
