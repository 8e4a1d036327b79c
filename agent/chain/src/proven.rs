//! Reading the contract's storage instead of asking its views: words proved below a block's state root, so that one endpoint suffices and
//! need not be believed. Pure: what is asked for goes out as slots, what was answered comes in as proofs.
//!
//! A change costs what changed: the events since are replayed, and one proved word tells whether they are all ([`replay()`]). Where that
//! does not go, nodes of the trie that were proved before are kept, and nothing is asked again below those that are still there.

mod code;
mod contents;
mod history;
mod layout;
mod replay;
mod sealed;
mod storage;
#[cfg(test)]
mod tests;
mod trie;

pub(crate) use code::proved as proved_code;
pub(crate) use contents::{Contents, For, TooLarge, read};
pub(crate) use history::History;
pub(crate) use replay::replay;
pub(crate) use sealed::Sealed;
pub(crate) use storage::{AccountProof, Nodes, Unproven, Words};

use alloy_primitives::{Address, B256, U256};
use mesh_contract::IMPLEMENTATION_SLOT;

pub(crate) use layout::extension;

/// What tells whether anything is new: the word that every change writes.
pub(crate) const TOTALS: B256 = layout::MEMBERS;

/// How far the contract is.
pub(crate) fn history(words: &mut Words) -> Option<History> {
    words.get(TOTALS).ok().map(contents::history)
}

/// The same, as that word says it.
pub(crate) fn history_of(totals: U256) -> History {
    contents::history(totals)
}

/// The code behind the proxy.
pub(crate) fn implementation(words: &mut Words) -> Option<Address> {
    words.get(IMPLEMENTATION_SLOT).ok().map(|word| Address::from_word(word.into()))
}
