//! Who leads, as the endpoints say now. No packet depends on it: it is read when an application asks, and only at the head.

use std::sync::{Mutex, PoisonError};

use alloy_primitives::{B256, U256};
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::id::{Address, TokenId};

use super::{
    Sources,
    gather::{answered, gather_in_time},
};
use crate::{RpcError, Source, source::CALL};

/// The leader's seat. See `ILeaderElection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Grows with each election, and when votes lapse.
    pub term: u32,
    /// Who leads: token and member address; `None` while the seat is empty.
    pub leader: Option<(TokenId, Address)>,
}

/// What an endpoint said last, and of which block: a block's leader does not change, and applications ask more often than blocks come.
pub(super) type LastStanding = Mutex<Option<(B256, Standing)>>;

impl Sources {
    /// What as many endpoints say as must agree about a read. Within a few seconds of an election they may differ.
    ///
    /// # Errors
    /// In words: too few answered, or they differ.
    pub async fn leader(&self) -> Result<Standing, String> {
        let sources = self.sources.iter().zip(&self.standings);
        let asked = sources.map(|(source, last)| standing(source, self.subject.contract, self.chain_id, last));
        let said = gather_in_time(asked, |said| self.agreed(said).is_some()).await;
        if let Some(agreed) = self.agreed(&said) {
            return Ok(agreed);
        }
        let failure = said.iter().flatten().find_map(|said| said.as_ref().err());
        Err(match failure {
            Some(error) if answered(&said) < self.need => error.to_string(),
            Some(_) | None => "the RPC endpoints differ about who leads".to_owned(),
        })
    }

    fn agreed(&self, said: &[Option<Result<Standing, RpcError>>]) -> Option<Standing> {
        let good = || said.iter().flatten().flatten();
        good().find(|one| good().filter(|other| other == one).count() >= self.need).copied()
    }
}

/// What an endpoint says of its newest block. `chain_id` is the chain that it must be of, where the operator said so.
async fn standing(
    source: &Source,
    address: Address,
    chain_id: Option<u64>,
    last: &LastStanding,
) -> Result<Standing, RpcError> {
    let head = source.head().await?.hash;
    let known = *last.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, standing)) = known.filter(|(block, _)| *block == head) {
        return Ok(standing);
    }
    let ((), term, token, leader) = tokio::try_join!(
        source.must_be_of(chain_id),
        source.call(address, head, contract::termCall {}),
        source.call(address, head, contract::leaderTokenCall {}),
        source.call(address, head, contract::currentLeaderCall {}),
    )?;
    let token = if token.is_zero() { None } else { Some(token_id(token)?) };
    if token.is_some() == leader.is_zero() {
        return Err(RpcError::invalid_response(CALL, "leaderToken() and currentLeader(): one of them is zero"));
    }
    let standing = Standing { term, leader: token.map(|token| (token, leader)) };
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, standing));
    Ok(standing)
}

fn token_id(token: U256) -> Result<TokenId, RpcError> {
    let id = u32::try_from(token).ok().and_then(TokenId::new);
    id.ok_or_else(|| RpcError::invalid_response(CALL, &format!("leaderToken(): no token is {token}")))
}
