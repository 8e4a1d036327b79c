//! The leader, and this node's vote, in the words of the local API.

use alloy_primitives::{Address, B256};
use mesh_contract::SignedVote;
use mesh_core::id::TokenId;
use serde::{Deserialize, Serialize};

/// `GET /v1/leader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LeaderView {
    /// Always `p2p-agent.leader/v1`.
    pub schema: &'static str,
    /// The term.
    pub term: u32,
    /// Its leader's token; `None` while the seat is empty.
    pub leader_token: Option<TokenId>,
    /// Its member address.
    pub leader: Option<Address>,
}

/// The body of `POST /v1/vote`: the seat whose leader does not work, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ballot {
    /// The term.
    pub term: u32,
    /// Its leader; `null` while the seat is empty: then a leader is elected, which needs no vote.
    pub leader_token: Option<TokenId>,
    /// Whether the vote that this node cast in this term is taken back.
    #[serde(default)]
    pub withdraw: bool,
}

/// The answer to `POST /v1/vote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cast {
    /// Always `p2p-agent.vote/v1`.
    pub schema: &'static str,
    /// The transaction, where this node's member address has funds.
    pub transaction: Option<B256>,
    /// Why there is none.
    pub not_submitted: Option<String>,
    /// The vote for a relayer, as `meshctl leader relay` reads it; `None` where the call was an election.
    pub vote: Option<SignedVote>,
}

/// Why no vote was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCast {
    /// This node is no member now.
    #[error("this node is no member, and has no vote")]
    NoMember,
    /// The caller has seen another seat than the contract has.
    #[error("the seat is another: term {term}, leader {}", leader.map_or_else(|| "none".to_owned(), |token| token.to_string()))]
    Moved {
        /// The term now.
        term: u32,
        /// The leader now.
        leader: Option<TokenId>,
    },
    /// While the seat is empty, there are no votes.
    #[error("the seat is empty in term {term}: there is no vote to take back")]
    NothingToWithdraw {
        /// The term now.
        term: u32,
    },
    /// The endpoints do not say.
    #[error("cannot read who leads: {0}")]
    Unread(String),
    /// The signer refused.
    #[error("cannot sign the vote: {0}")]
    Unsigned(String),
}
