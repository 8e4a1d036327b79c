//! Who leads, as the endpoints say now. No packet depends on it: it is read when somebody asks, and only at the head.

use std::sync::{Mutex, PoisonError};

use alloy::primitives::{B256, U256};
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::id::{Address, TokenId};

use super::{
    quorum::{answered, gather_in_time},
    rpc::{RpcError, Source, nonsense},
    sources::Sources,
};

/// The leader's seat. See `ILeaderElection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Grows with each election, and when votes lapse.
    pub term: u32,
    /// Who stands: token and member address; `None` where nobody does.
    pub leader: Option<(TokenId, Address)>,
}

/// What an endpoint said last, and of which block: a block's leader does not change, and applications ask more often than blocks come.
pub(super) type Told = Mutex<Option<(B256, Standing)>>;

impl Sources {
    /// What as many endpoints say as must agree about a read. Within a few seconds of an election they may differ.
    ///
    /// # Errors
    /// In words: too few answered, or they differ.
    pub async fn leader(&self) -> Result<Standing, String> {
        let sources = self.sources.iter().zip(&self.told);
        let asked = sources.map(|(source, told)| standing(source, self.subject.contract, told));
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

async fn standing(source: &Source, address: Address, told: &Told) -> Result<Standing, RpcError> {
    let head = source.head().await?.hash;
    let known = *told.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, standing)) = known.filter(|(block, _)| *block == head) {
        return Ok(standing);
    }
    let (term, token, leader) = tokio::try_join!(
        source.call(address, head, contract::termCall {}),
        source.call(address, head, contract::leaderTokenCall {}),
        source.call(address, head, contract::currentLeaderCall {}),
    )?;
    let token = if token.is_zero() { None } else { Some(token_id(token)?) };
    if token.is_some() == leader.is_zero() {
        return Err(nonsense("eth_call", "leaderToken() and currentLeader(): one of them is zero"));
    }
    let standing = Standing { term, leader: token.map(|token| (token, leader)) };
    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, standing));
    Ok(standing)
}

fn token_id(token: U256) -> Result<TokenId, RpcError> {
    let id = u32::try_from(token).ok().and_then(TokenId::new);
    id.ok_or_else(|| nonsense("eth_call", &format!("leaderToken(): no token is {token}")))
}
