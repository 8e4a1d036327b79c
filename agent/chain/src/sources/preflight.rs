//! Finding out at the start whether the endpoints can be those of this cluster at all.

use mesh_core::id::Address;

use super::{Sources, gather::gather_in_time};
use crate::Source;

/// The endpoints answer, and cannot be those of this cluster.
#[derive(Debug, thiserror::Error)]
pub enum WrongChain {
    /// Not the chain that was configured.
    #[error("{source_id} is of chain {found}, not of chain {wanted}\nhint: check `--rpc-url` and `--chain-id`")]
    ChainId {
        /// Which endpoint.
        source_id: String,
        /// Its chain.
        found: u64,
        /// The configured one.
        wanted: u64,
    },
    /// No contract there.
    #[error(
        "there is no contract at {contract} on chain {chain_id} ({source_id})\nhint: check `--contract` (default: the app id of this CVM) and `--rpc-url`; `meshctl deploy` makes a cluster contract"
    )]
    NoCode {
        /// Which endpoint.
        source_id: String,
        /// Its chain.
        chain_id: u64,
        /// The address without code.
        contract: Address,
    },
}

impl Sources {
    /// Whether so many endpoints answer for another chain, or for a chain without the contract, that the needed ones can
    /// never agree. An endpoint that does not answer says nothing.
    ///
    /// # Errors
    /// What the last of them said.
    pub async fn preflight(&self) -> Result<(), WrongChain> {
        let checks = gather_in_time(self.sources.iter().map(|source| self.check(source)), |_| false).await;
        let wrong: Vec<_> = checks.into_iter().flatten().filter_map(Result::err).collect();
        if wrong.len() > self.sources.len() - self.need {
            return wrong.into_iter().last().map_or(Ok(()), Err);
        }
        Ok(())
    }

    async fn check(&self, source: &Source) -> Result<(), WrongChain> {
        let Ok(chain_id) = source.chain_id().await else { return Ok(()) };
        let source_id = source.id().to_owned();
        if let Some(wanted) = self.chain_id.filter(|wanted| *wanted != chain_id) {
            return Err(WrongChain::ChainId { source_id, found: chain_id, wanted });
        }
        match source.has_code(self.subject.contract).await {
            Ok(false) => Err(WrongChain::NoCode { source_id, chain_id, contract: self.subject.contract }),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}
