//! What an agent reports about itself and its peers: one vocabulary for the socket, the command line, the SDKs and the logs.
//!
//! Rules: additive changes only inside `meshctl.status/v1`; unknown is `None` (JSON `null`), never 0; times are RFC 3339 UTC
//! strings with milliseconds; nothing here is secret.

mod agent;
mod peer;

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use agent::{AgentStatus, DroppedPackets, FrontStatus, Offloads, ProxyStatus};
pub use peer::{Agreement, NodeKind, OtherPeer, PathKind, PathStatus, PeerState, PeerStatus, Reason};

use crate::{
    id::{Address, AppId, B256, InstanceId, TlsKey, TokenId, WireguardKey},
    key_claim::GuestApi,
    network::MeshNetwork,
    wei::Wei,
};

/// The value of [`Status::schema`].
pub const SCHEMA: &str = "meshctl.status/v1";

/// `GET /v1/status` of the local API and `meshctl status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// When this was made.
    pub generated_at: String,
    /// The process.
    pub agent: AgentStatus,
    /// The one-word answer.
    pub verdict: Verdict,
    /// This node.
    #[serde(rename = "self")]
    pub own: SelfStatus,
    /// The contract as seen from here.
    pub registry: RegistryStatus,
    /// Counts over `peers`.
    pub summary: Summary,
    /// Every other verified WireGuard peer of the registry, and those still on the device, ascending by token.
    pub peers: Vec<PeerStatus>,
    /// Every other verified peer of the registry that this node has no tunnel with, ascending by token: those of kind `tls`, and
    /// where this node is of that kind all of them. None while this node is no member.
    pub other_peers: Vec<OtherPeer>,
    /// What is wrong now, most severe first.
    pub warnings: Vec<Warning>,
}

/// The one-word answer and its exit code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Worst thing that is true now.
    pub state: VerdictState,
    /// The process answers.
    pub live: bool,
    /// Applications may rely on the mesh now. Never latched.
    pub ready: bool,
    /// Exit code of `meshctl status`.
    pub exit_code: u8,
    /// When this verdict began.
    pub since: String,
}

/// Verdicts, with the exit code each gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictState {
    /// 0: everything works.
    Ok,
    /// 1: works, with something to look at.
    Degraded,
    /// 2: not ready, or no peer reachable although there are some.
    Down,
    /// 4: the view of the contract is too old or sources disagree.
    Stale,
    /// 5: own membership is gone.
    Fenced,
}

impl VerdictState {
    /// Exit code of `meshctl status`; 3 (agent not running) and 64 (usage) are the command's own.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Degraded => 1,
            Self::Down => 2,
            Self::Stale => 4,
            Self::Fenced => 5,
        }
    }
}

/// This node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfStatus {
    /// Its token, once known.
    pub token_id: Option<TokenId>,
    /// `node-<token>` or the configured name.
    pub name: Option<String>,
    /// What it is in the mesh.
    pub kind: NodeKind,
    /// Its mesh address, once known; `None` for a node of kind `tls`.
    pub address: Option<Ipv4Addr>,
    /// Where others reach its application, as the contract has it; `None` for a node of kind `wireguard`.
    pub url: Option<String>,
    /// Its WireGuard public key; `None` for a node of kind `tls`.
    pub public_key: Option<WireguardKey>,
    /// Its TLS key, by which others know it; always there for a node of kind `tls`, as of this version of the agent.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// The token's key epoch.
    pub key_epoch: Option<u32>,
    /// Endpoint updates since it registered, while it is a peer.
    pub endpoint_epoch: Option<u32>,
    /// Where it stands on the way to being a peer.
    pub membership: MembershipState,
    /// What an operator has to do, when it is their turn: a complete command.
    pub membership_hint: Option<String>,
    /// Its CVM.
    pub instance_id: InstanceId,
    /// Address of its node key, which proves with each registration that an instance of its app signed it.
    pub node_address: Address,
    /// Address of its member key: the contract knows this node by it, and it pays for this node's transactions.
    pub member_address: Address,
    /// What that address has, as last read: in the block before this moment while a transaction waits for funds, and at most some
    /// 40 s ago otherwise. `None` until it was read.
    pub member_balance: Option<Wei>,
    /// How it proves what it is.
    pub identity: Identity,
}

/// Where this node stands on the way to being a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MembershipState {
    /// The contract has not been read yet.
    Unknown,
    /// No token is bound to this instance.
    NoToken,
    /// Several tokens are bound to this instance and none was chosen.
    Ambiguous,
    /// The token to use is barred by the contract owner.
    Revoked,
    /// A signed registration waits for its transaction.
    Registering,
    /// Registered: a peer.
    Active,
    /// Was a peer, lost the binding; stays out until an operator acts and restarts it.
    Fenced,
}

impl fmt::Display for MembershipState {
    /// As in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::NoToken => "no-token",
            Self::Ambiguous => "ambiguous",
            Self::Revoked => "revoked",
            Self::Registering => "registering",
            Self::Active => "active",
            Self::Fenced => "fenced",
        })
    }
}

/// How this node proves what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// `verified` when the own key chain was checked.
    pub kms_chain: String,
    /// The guest API that gave the node key, whose claim the key chain shows; `None` of an agent of before.
    #[serde(default)]
    pub node_key_api: Option<GuestApi>,
    /// The guest API that is used for everything but keys; `None` of an agent of before.
    #[serde(default)]
    pub guest_api: Option<GuestApi>,
    /// Root recovered from the own key chain.
    pub kms_root: Address,
    /// Every root trusted, the own one first.
    pub trusted_kms_roots: Vec<Address>,
    /// Every app id trusted, the own one first.
    pub trusted_app_ids: Vec<AppId>,
    /// SHA-256 of app-compose.json, from the guest agent.
    pub compose_hash: Option<B256>,
    /// The guest agent is the simulator: nothing is confidential.
    pub simulated: bool,
}

/// The contract as seen from here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// EIP-155 chain id.
    pub chain_id: Option<u64>,
    /// The cluster contract.
    pub contract: Address,
    /// ERC-721 name of the contract.
    pub mesh: Option<String>,
    /// The mesh network.
    pub network: Option<MeshNetwork>,
    /// `epoch()` of the last accepted read.
    pub epoch: Option<u64>,
    /// Block of the last accepted read.
    pub block: Option<BlockStatus>,
    /// Do registry, configuration and device agree?
    pub counts: Counts,
    /// All three counts are equal and name the same peers.
    pub in_sync: bool,
    /// Peers that were removed because f + 1 of 2f + 1 members say that they left, while the own RPC endpoints do not answer;
    /// ascending by token.
    #[serde(default)]
    pub removed_by_peers: Vec<ToldRemoval>,
    /// How much longer the view may be used.
    pub freshness: Freshness,
    /// Each RPC endpoint.
    pub sources: Vec<SourceStatus>,
    /// Agreement between them.
    pub quorum: Quorum,
}

/// A registration that no longer holds, at the word of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldRemoval {
    /// Whose.
    pub token: TokenId,
    /// Registrations of this token with this key epoch or a lower one are not believed.
    pub key_epoch: u32,
    /// The members that said so, ascending.
    pub told_by: Vec<TokenId>,
    /// The lowest epoch of the contract at which one of them had read it.
    pub epoch: u64,
    /// The lowest block.
    pub block: u64,
}

/// Block of the last accepted read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockStatus {
    /// Height.
    pub number: u64,
    /// Header hash.
    pub hash: B256,
    /// Seconds since the read was made.
    pub age_s: f64,
    /// `latest` or `finalized`.
    pub finality: String,
}

/// Peers by layer, without this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Verified in the registry.
    pub active: usize,
    /// Wanted on the device.
    pub configured: usize,
    /// Reported by the device.
    pub on_device: usize,
}

/// How much longer the view of the contract may be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Freshness {
    /// The last agreed read is at most 30 s old and its block at most 120 s (the latter not on chain 31337).
    pub fresh: bool,
    /// When `on_expiry` happens; `None` before the first read and under `static`.
    pub deadline: Option<String>,
    /// Since when the chain has stood still, as several sources agree; `None` while it moves, or where a single source is believed.
    #[serde(default)]
    pub halted_since: Option<String>,
    /// `fail-closed` or `static`.
    pub on_expiry: String,
}

/// One RPC endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Scheme, host and port of its URL: paths and queries often hold API keys.
    pub id: String,
    /// Always `rpc` today.
    pub kind: String,
    /// The last read from it worked, or was not waited for because enough others were faster.
    pub ok: bool,
    /// It agreed with the others.
    pub agrees: Option<bool>,
    /// How far behind the newest head it is.
    pub lag_blocks: Option<u64>,
    /// Time of its last read, milliseconds.
    pub latency_ms: Option<f64>,
    /// How the last read took what the contract holds from it; `None` where it was not asked for that.
    #[serde(default)]
    pub content: Option<Content>,
    /// Why the last read failed.
    pub error: Option<String>,
}

/// Why what an endpoint said of the contract is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// It proved every word below the block's state root: it could hide, add or alter nothing.
    Proven,
    /// Enough endpoints said the same.
    Agreed,
}

/// Agreement between sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// How many must agree.
    pub need: usize,
    /// How many did at the last read.
    pub have: usize,
}

/// Counts and sums over the peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All.
    pub peers: usize,
    /// In state `up` or `idle`.
    pub up: usize,
    /// Of these, by direct UDP.
    pub direct: usize,
    /// Of these, through the gateway.
    pub gateway: usize,
    /// All others.
    pub down: usize,
    /// Bytes received inside the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent inside the tunnel.
    pub tx_bytes: u64,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable code, `W` and three digits.
    pub code: String,
    /// Stable name, kebab-case.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// The peer it is about.
    pub peer: Option<TokenId>,
    /// When it began.
    pub since: String,
    /// What is wrong.
    pub message: String,
    /// What to do: a complete command where there is one.
    pub hint: Option<String>,
}

/// How bad a warning is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The mesh does not work.
    Critical,
    /// Something does not work.
    Warning,
    /// Worth knowing.
    Info,
}

/// `GET /v1/registration`: a signed registration that anyone may submit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationOffer {
    /// EIP-155 chain id it was signed for.
    pub chain_id: u64,
    /// Contract it was signed for.
    pub contract: Address,
    /// The token.
    pub token_id: TokenId,
    /// The key epoch of the registration that it is or updates.
    pub key_epoch: u32,
    /// Last Unix second at which it may be submitted.
    pub deadline: u64,
    /// Complete call data for the contract, `0x` hex.
    pub calldata: String,
    /// `registerPeer` or `updateEndpoint`.
    pub method: String,
}
