//! What became of a transaction, for the log: whether it had its effect is read from the contract.

use alloy_primitives::B256;

use super::{Sources, gather::gather_in_time};
use crate::Receipt;

/// A transaction that is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mined {
    /// The block's height.
    pub block: u64,
    /// It was not reverted.
    pub succeeded: bool,
}

impl Sources {
    /// In which block a transaction is, where as many endpoints say so as must agree about a read.
    pub async fn mined(&self, transaction: B256) -> Option<Mined> {
        let asked = self.sources.iter().map(|source| source.receipt(transaction));
        let said = gather_in_time(asked, |_| false).await;
        let said: Vec<Mined> = said.into_iter().flatten().flatten().flatten().filter_map(mined).collect();
        said.iter().find(|one| said.iter().filter(|other| other == one).count() >= self.need).copied()
    }
}

fn mined(receipt: Receipt) -> Option<Mined> {
    Some(Mined { block: receipt.block_number?, succeeded: receipt.succeeded() })
}
