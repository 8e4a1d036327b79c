//! The agent's mind: facts and clock readings in, commands out.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    diff::Change,
    id::{Address, AppId, B256, InstanceId, TokenId, WireguardKey},
    network::MeshNetwork,
    observed::Observed,
    registration::{EndpointUpdate, Proof, Registration},
    registry::Registry,
    status::{Quorum, RegistrationOffer, SourceStatus},
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
    /// Address of the node key.
    pub node_address: Address,
    /// Own WireGuard public key.
    pub wireguard_key: WireguardKey,
    /// From the guest agent's `Info`.
    pub compose_hash: Option<B256>,
    /// The guest agent says it is a simulator.
    pub simulated: bool,
    /// The cluster contract.
    pub contract: Address,
    /// For the status: crate version, process id, interface name, data plane name.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Interface name.
    pub interface: String,
    /// `userspace` or `kernel`.
    pub dataplane: String,
}

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The token to register for; otherwise the one bound to this instance.
    pub token: Option<TokenId>,
    /// UDP port of the device.
    pub listen_port: u16,
    /// Endpoint to register; `None` registers none.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives to every peer.
    pub keepalive: u16,
    /// Blocks on top of a registration before its peer is added; removals never wait.
    pub confirmations: u64,
    /// KMS roots trusted besides the own one.
    pub trusted_kms_roots: Vec<Address>,
    /// App ids trusted besides the own one.
    pub trusted_app_ids: Vec<AppId>,
    /// Age of the last agreed read at which `on_expiry` happens.
    pub registry_deadline: Duration,
    /// What happens then.
    pub on_expiry: OnExpiry,
    /// Sources that must say the same; shown in status.
    pub quorum: usize,
    /// Configured peer names.
    pub names: BTreeMap<TokenId, String>,
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
    /// Something may have changed on chain (new head, reconnect, an operator's nudge): a hint to read, nothing more.
    Hint,
    /// The answer to [`Command::ReadRegistry`]: an agreed read, with what each source said.
    Registry(Box<Registry>, SourceReport),
    /// The answer to [`Command::ReadRegistry`]: no agreement.
    ReadFailed(String, SourceReport),
    /// The answer to [`Command::FetchProofs`]: each proof found, or why not.
    Proofs(Vec<(TokenId, Result<Box<Proof>, String>)>),
    /// The answer to [`Command::Observe`], and spontaneous ones (an interface vanished).
    Observed(Observed),
    /// [`Command::Apply`] is done; a change that failed names its reason. Always followed by a fresh observation.
    Applied(Result<(), ApplyError>),
    /// A registration or endpoint update was signed and is on offer; `transaction` is its hash when we could pay for it.
    Offered {
        /// What the local API shows.
        offer: RegistrationOffer,
        /// Transaction hash, when submitted by this node.
        transaction: Option<B256>,
        /// Why we did not submit it, when not (no funds, RPC error).
        not_submitted: Option<String>,
    },
    /// Signing failed (guest agent gone).
    OfferFailed(String),
    /// A verified registry of an earlier run, read from disk at start-up, if there is one.
    Cached(Box<CachedRegistry>),
    /// The time of `poll_timeout` has come.
    Timeout,
    /// An orderly stop was asked for.
    Shutdown,
}

/// Why a change could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {change}: {reason}")]
pub struct ApplyError {
    /// The change, as printed.
    pub change: String,
    /// What the system said.
    pub reason: String,
}

/// What every source said at a read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceReport {
    /// Each source.
    pub sources: Vec<SourceStatus>,
    /// Needed and had.
    pub quorum: Quorum,
    /// Sources contradicted each other (not merely failed).
    pub disagree: bool,
}

/// Something for the shell to do. At most one of each kind is outstanding, but for `Save` and `Stop`.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Read the contract at the head, from all sources, and answer [`Input::Registry`] or [`Input::ReadFailed`].
    ReadRegistry,
    /// Fetch the proofs of these registrations, each from its one block, and answer [`Input::Proofs`].
    FetchProofs(Vec<ProofRequest>),
    /// Read device, interface and guard route, and answer [`Input::Observed`].
    Observe,
    /// Make these changes in this order, stop at the first that fails, and answer [`Input::Applied`].
    Apply(Vec<Change>),
    /// Sign, offer on the socket, and submit if the node address has funds; answer [`Input::Offered`].
    Offer(Intent),
    /// Withdraw the offer from the socket: it was accepted or makes no sense any more.
    Withdraw,
    /// Keep this for the next start.
    Save(Box<CachedRegistry>),
    /// Everything is taken down: leave.
    Stop,
}

/// Where a proof is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofRequest {
    /// Whose.
    pub token: TokenId,
    /// The single block whose logs carry it.
    pub block: u64,
}

/// What this node wants on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Become a peer, or replace the registration.
    Register(Registration),
    /// Change only where we are reached.
    UpdateEndpoint(EndpointUpdate),
}

/// A verified registry on disk: lets a restart work while every RPC endpoint is down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedRegistry {
    /// The last accepted read.
    pub registry: Registry,
    /// Proofs of its peers; verified again when loaded.
    pub proofs: BTreeMap<TokenId, Proof>,
    /// Wall clock of that read, Unix seconds.
    pub read_at: u64,
    /// What can no longer be taken back.
    pub floor: Floor,
    /// The token this node was a peer with, if it was.
    pub member: Option<TokenId>,
}

/// Values of the last finalized block seen: anything older is a lie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Contract epoch.
    pub epoch: u64,
    /// Key epochs by token.
    pub key_epochs: BTreeMap<TokenId, u32>,
}

// The machine itself:
//
// impl Agent {
//     pub fn new(me: LocalNode, policy: Policy, now: Now) -> Self
//     pub fn handle(&mut self, input: Input, now: Now)
//     pub fn poll_command(&mut self) -> Option<Command>
//     pub fn poll_timeout(&self) -> Option<(Duration /* since_start */, &'static str)>
//     pub fn status(&self, now: Now) -> Status
//     pub fn offer(&self) -> Option<&RegistrationOffer>
//     pub fn network(&self) -> Option<MeshNetwork>
// }
#[expect(dead_code, reason = "keeps the import until the machine uses it")]
type Network = MeshNetwork;
