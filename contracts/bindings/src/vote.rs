//! A vote on the leader, as a member signs it (EIP-712) and any account submits it. See `ILeaderElection.castVoteBySig`.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolStruct as _;
use alloy_sol_types::sol;
use mesh_core::id::TokenId;
use serde::{Deserialize, Serialize};

use crate::{DstackClusterNFT::castVoteBySigCall, domain};

/// For how long a vote is good that is signed now, seconds; the contract takes a day at most.
pub const VOTE_VALID_FOR: u64 = 3600;

/// Gas that a vote gets at least, more than any takes: another in its block can make it the last one that is required, which elects, after
/// both were estimated (`contracts/snapshots/costs.json`: "signed vote that deposes, with 32 stale registrations ahead").
pub const VOTE_GAS: u64 = 300_000;

sol! {
    /// What a member signs.
    struct Vote {
        uint256 tokenId;
        uint32 term;
        address target;
        bool isNoConfidence;
        uint64 deadline;
    }
}

/// A vote before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsignedVote {
    /// Of the contract's chain (EIP-155).
    pub chain_id: u64,
    /// The cluster's contract.
    pub contract: Address,
    /// Whose vote it is.
    pub token_id: TokenId,
    /// In which term.
    pub term: u32,
    /// The leader that is meant.
    pub target: Address,
    /// Against it; else an earlier vote is taken back.
    pub is_no_confidence: bool,
    /// Last Unix second at which it may be submitted.
    pub deadline: u64,
}

/// A vote that any account can submit: the member needs no funds, the relayer no trust. As `POST /v1/vote` of the agent and `meshctl
/// leader vote --sign-for` give it, and `meshctl leader relay` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedVote {
    /// See [`UnsignedVote::chain_id`].
    pub chain_id: u64,
    /// See [`UnsignedVote::contract`].
    pub contract: Address,
    /// See [`UnsignedVote::token_id`].
    pub token_id: TokenId,
    /// See [`UnsignedVote::term`].
    pub term: u32,
    /// See [`UnsignedVote::target`].
    pub target: Address,
    /// See [`UnsignedVote::is_no_confidence`].
    pub is_no_confidence: bool,
    /// See [`UnsignedVote::deadline`].
    pub deadline: u64,
    /// The member key's, 65 bytes.
    pub signature: Bytes,
}

impl UnsignedVote {
    /// Signed by `sign`, which is given the digest and has the token's member key.
    ///
    /// # Errors
    /// What `sign` says.
    pub fn sign<S: Into<Bytes>, E>(self, sign: impl FnOnce(B256) -> Result<S, E>) -> Result<SignedVote, E> {
        let Self { chain_id, contract, token_id, term, target, is_no_confidence, deadline } = self;
        let token = U256::from(token_id.get());
        let vote = Vote { tokenId: token, term, target, isNoConfidence: is_no_confidence, deadline };
        let signature = sign(vote.eip712_signing_hash(&domain(chain_id, contract)))?.into();
        Ok(SignedVote { chain_id, contract, token_id, term, target, is_no_confidence, deadline, signature })
    }
}

impl SignedVote {
    /// The call that submits it.
    #[must_use]
    pub fn call(&self) -> castVoteBySigCall {
        castVoteBySigCall {
            tokenId: U256::from(self.token_id.get()),
            inTerm: self.term,
            target: self.target,
            isNoConfidence: self.is_no_confidence,
            deadline: self.deadline,
            memberSignature: self.signature.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_has_the_contracts_type() {
        assert_eq!(
            Vote::eip712_encode_type(),
            "Vote(uint256 tokenId,uint32 term,address target,bool isNoConfidence,uint64 deadline)"
        );
    }
}
