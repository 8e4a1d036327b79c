//! The leader's seat of the cluster, for applications that need one leader: who has it by the contract, and this node's vote.

use mesh_core::id::TokenId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What [`Agent::leader`](crate::Agent::leader) understands.
pub(crate) const LEADER_SCHEMA: &str = "p2p-agent.leader/v1";
/// What [`Agent::vote`](crate::Agent::vote) understands.
pub(crate) const VOTE_SCHEMA: &str = "p2p-agent.vote/v1";

/// Who leads, by the contract. A later term is another seat, also where it has the same leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Grows with every election.
    pub term: u32,
    /// The leader's token; `None` where the seat is empty.
    pub leader_token: Option<TokenId>,
}

/// The outcome of a vote.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cast {
    /// The transaction, where the node address has funds.
    pub transaction: Option<String>,
    /// Why there is none.
    pub not_submitted: Option<String>,
    /// The signed vote, for a relayer to submit with `meshctl leader relay`; `None` where a leader was elected, which needs no
    /// vote.
    pub vote: Option<Value>,
}
