//! Reading the contract's storage instead of asking its views: words proved below a block's state root, so that one endpoint suffices and
//! need not be believed. Pure: what is asked for goes out as slots, what was answered comes in as proofs. Nodes of the trie that were
//! proved are kept: below those that another block still has nothing is asked again, so that a change costs what changed.

mod code;
mod contents;
mod layout;
mod sealed;
mod storage;
#[cfg(test)]
mod tests;
mod trie;

pub(crate) use code::proved as proved_code;
pub(crate) use contents::{Contents, For, TooLarge, read};
pub(crate) use sealed::Sealed;
pub(crate) use storage::{AccountProof, Nodes, Unproven, Words};

use alloy_primitives::{Address, B256};
use mesh_contract::IMPLEMENTATION_SLOT;

pub(crate) use layout::extension;

/// What tells whether anything is new: the totals, of which one field is the epoch, and the code.
pub(crate) const FIRST: [B256; 2] = [layout::MEMBERS, IMPLEMENTATION_SLOT];

/// The code behind the proxy.
pub(crate) fn implementation(words: &mut Words) -> Option<Address> {
    words.get(IMPLEMENTATION_SLOT).ok().map(|word| Address::from_word(word.into()))
}
