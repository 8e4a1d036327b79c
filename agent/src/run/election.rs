//! What applications may ask about the leader's seat: which member has it, and this node's vote against that member. The member key
//! stays here; a vote is always this node's own, about the seat as the contract has it now, and there is one in a term.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::Address;
use alloy_sol_types::SolCall as _;
use mesh_chain::Standing;
use mesh_contract::{DstackClusterNFT::electLeaderCall, SignedVote, UnsignedVote, VOTE_VALID_FOR};
use mesh_core::{id::TokenId, registration::Domain};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, timeout},
};

use super::Chain;
use crate::{
    api::{Ballot, Cast, LeaderView, NotCast},
    identity::Identity,
};

/// A caller that asks more often gets the same answer again.
const FRESH_FOR: Duration = Duration::from_millis(300);
/// The endpoints' time for a question.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// The seat and this node's votes. Questions wait for each other, so that many cost one read.
#[derive(Debug)]
pub(crate) struct Election<C> {
    chain: Arc<C>,
    identity: Arc<Identity>,
    last: Mutex<Option<(Instant, Result<Standing, String>)>>,
    voting: Mutex<()>,
}

impl<C: Chain> Election<C> {
    pub(crate) fn new(chain: Arc<C>, identity: Arc<Identity>) -> Self {
        Self { chain, identity, last: Mutex::default(), voting: Mutex::default() }
    }

    pub(crate) async fn leader(&self) -> Result<LeaderView, String> {
        let Standing { term, leader } = self.standing().await?;
        let (leader_token, leader) = leader.unzip();
        Ok(LeaderView { schema: "p2p-agent.leader/v1", term, leader_token, leader })
    }

    /// A caller's turn to vote: there is one at a time.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.voting.lock().await
    }

    /// Signs the vote of `member`, or its withdrawal, and submits it if the member address has funds. `member` is this node's token
    /// and the contract that it is a member of.
    pub(crate) async fn vote(
        &self,
        ballot: Ballot,
        member: Option<(TokenId, Domain)>,
        _turn: MutexGuard<'_, ()>,
    ) -> Result<Cast, NotCast> {
        let (token, domain) = member.ok_or(NotCast::NoMember)?;
        let Standing { term, leader } = self.standing().await.map_err(NotCast::Unread)?;
        let now = leader.map(|(token, _)| token);
        if (ballot.term, ballot.leader_token) != (term, now) {
            return Err(NotCast::Moved { term, leader: now });
        }
        let vote = match leader {
            Some((_, target)) => {
                let signed = self.sign(token, term, (target, !ballot.withdraw), &domain);
                Some(signed.map_err(NotCast::Unsigned)?)
            }
            None if ballot.withdraw => return Err(NotCast::NothingToWithdraw { term }),
            None => None,
        };
        let calldata = vote.as_ref().map_or_else(|| electLeaderCall {}.abi_encode(), |vote| vote.call().abi_encode());
        let sent = self.chain.submit(self.identity.member.signer(), domain.chain_id, calldata.into()).await;
        let (transaction, not_submitted) = match sent {
            Ok(transaction) => (Some(transaction), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Cast { schema: "p2p-agent.vote/v1", transaction, not_submitted, vote })
    }

    async fn standing(&self) -> Result<Standing, String> {
        let mut last = self.last.lock().await;
        if let Some((_, standing)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return standing.clone();
        }
        let read = timeout(READ_WITHIN, self.chain.leader()).await;
        let standing = read.unwrap_or_else(|_| Err(format!("no answer within {} s", READ_WITHIN.as_secs())));
        *last = Some((Instant::now(), standing.clone()));
        standing
    }

    fn sign(
        &self,
        token: TokenId,
        term: u32,
        (target, is_no_confidence): (Address, bool),
        domain: &Domain,
    ) -> Result<SignedVote, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let deadline = now.saturating_add(VOTE_VALID_FOR);
        let vote = UnsignedVote {
            chain_id: domain.chain_id,
            contract: domain.contract,
            token_id: token,
            term,
            target,
            is_no_confidence,
            deadline,
        };
        vote.sign(|digest| self.identity.member.sign(digest))
    }
}
