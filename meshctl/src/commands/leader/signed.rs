//! A vote as a member signs it (EIP-712) and a relayer submits it: the member needs no funds, the relayer no trust.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy::{
    primitives::{Address, Bytes, U256},
    sol,
    sol_types::SolStruct as _,
};
use mesh_contract::DstackClusterNFT::castVoteBySigCall;
use mesh_core::id::TokenId;
use serde::{Deserialize, Serialize};

use super::{report, what};
use crate::{
    chain::{Call, Operator},
    commands::{change::change, register::read_json},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

/// For how long a signed vote is good, seconds; the contract takes a day at most.
const VALID_FOR: u64 = 3600;

sol! {
    /// What a member signs. See ILeaderElection.castVoteBySig.
    struct Vote {
        uint256 tokenId;
        uint32 term;
        address target;
        bool isNoConfidence;
        uint64 deadline;
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct RelayArgs {
    /// File with the signed vote, as `meshctl leader vote --sign-for TOKEN` prints it; `-` reads stdin
    #[arg(value_name = "PATH")]
    vote: PathBuf,
    #[command(flatten)]
    key: SignerArgs,
}

/// A vote before it is signed.
pub(super) struct Ballot {
    pub(super) token: TokenId,
    pub(super) term: u32,
    pub(super) target: Address,
    pub(super) no_confidence: bool,
    /// Unix seconds.
    pub(super) deadline: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignedVote {
    chain_id: u64,
    contract: Address,
    token_id: TokenId,
    term: u32,
    target: Address,
    is_no_confidence: bool,
    deadline: u64,
    signature: Bytes,
}

impl Ballot {
    /// With the operator's key, which must be the node key of the token.
    pub(super) fn sign(self, operator: &Operator, contract: Address) -> anyhow::Result<SignedVote> {
        let Self { token, term, target, no_confidence, deadline } = self;
        let vote = Vote { tokenId: U256::from(token.get()), term, target, isNoConfidence: no_confidence, deadline };
        let domain = mesh_contract::domain(operator.chain.id, contract);
        let signature = operator.sign_hash(vote.eip712_signing_hash(&domain))?;
        Ok(SignedVote {
            chain_id: operator.chain.id,
            contract,
            token_id: token,
            term,
            target,
            is_no_confidence: no_confidence,
            deadline,
            signature: Bytes::from(signature),
        })
    }
}

/// Unix seconds.
pub(super) fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).saturating_add(VALID_FOR)
}

/// Submits a vote. Nothing but that call can come of the file, whoever wrote it.
pub(super) async fn relay(args: &RelayArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let vote: SignedVote = read_json(&args.vote, "vote")?;
    let refuse = |why: String| Failure::new(format!("refused to relay the vote: {why}"));
    if let Some(contract) = settings.given_contract().filter(|contract| *contract != vote.contract) {
        return Err(refuse(format!("it is for contract {}, not {contract}", vote.contract)).into());
    }
    let operator = Operator::connect(settings, &args.key).await?;
    if vote.chain_id != operator.chain.id {
        let why = format!("it is for chain {}, but `--rpc-url` leads to chain {}", vote.chain_id, operator.chain.id);
        return Err(refuse(why).hint("give an endpoint of that chain").into());
    }
    let call = castVoteBySigCall {
        tokenId: U256::from(vote.token_id.get()),
        inTerm: vote.term,
        target: vote.target,
        isNoConfidence: vote.is_no_confidence,
        deadline: vote.deadline,
        signature: vote.signature,
    };
    let call = Call::function(what(vote.is_no_confidence, vote.target), vote.contract, &call);
    change(&operator, printer, vote.contract, call, |done| report(done, vote.contract)).await
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
