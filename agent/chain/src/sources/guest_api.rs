//! Whether the contract takes node keys of dstack's guest API v1: asked once, by a new node.

use std::time::Duration;

use mesh_contract::{DstackClusterNFT as contract, TAKES_V1_CLAIMS};
use mesh_core::id::Address;
use tokio::time::timeout;

use super::{Sources, gather::gather_in_time};
use crate::{RpcError, Source};

/// A new node that nothing tells until then takes its key of v0.
const WITHIN: Duration = Duration::from_secs(10);

impl Sources {
    /// Whether the contract takes node keys of guest API v1, as so many endpoints say as must agree about a read, or the trusted one
    /// alone; `None` where they do not. To a new node, "no" costs nothing: its key of v0 proves the same. A "yes" that is a lie has it sign
    /// what the contract refuses, so it needs as many as any other lie.
    pub async fn takes_guest_v1(&self) -> Option<bool> {
        let asked = self.sources.iter().enumerate().filter(|(at, _)| self.trusted.is_none_or(|trusted| trusted == *at));
        let asked = asked.map(|(_, source)| takes(source, self.subject.contract, self.chain_id));
        let said = timeout(WITHIN, gather_in_time(asked, |said| self.enough(said).is_some())).await.ok()?;
        self.enough(&said)
    }

    /// No before yes, where both are said often enough.
    fn enough(&self, said: &[Option<Result<bool, RpcError>>]) -> Option<bool> {
        let count = |takes| said.iter().flatten().flatten().filter(|said| **said == takes).count();
        [false, true].into_iter().find(|takes| count(*takes) >= self.need)
    }
}

async fn takes(source: &Source, address: Address, chain_id: Option<u64>) -> Result<bool, RpcError> {
    source.must_be_of(chain_id).await?;
    let head = source.head().await?.hash;
    source.call(address, head, contract::supportsInterfaceCall { interfaceId: TAKES_V1_CLAIMS }).await
}
