//! The contract's history: a hash over all changes so far, in the word that each of them writes (`contracts/src/History.sol`). Who knows
//! the contents at one point of it, and has the events since, needs that word to know that none was left out, altered or invented.

use alloy_primitives::{B256, FixedBytes, U256, keccak256};
use alloy_sol_types::SolValue as _;

/// How far the contract is: two states with the same history are the same, as far as agents read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History {
    /// Changes so far.
    pub(crate) epoch: u64,
    /// The first 20 bytes of keccak256(epoch, hash before, change), each in a word of its own; zero before the first change.
    pub(crate) hash: FixedBytes<20>,
}

impl History {
    /// After one more change.
    pub(crate) fn then(self, change: B256) -> Self {
        let epoch = self.epoch.saturating_add(1);
        let hash = keccak256((U256::from(epoch), self.hash, change).abi_encode());
        Self { epoch, hash: FixedBytes::from_slice(&hash[..20]) }
    }
}
