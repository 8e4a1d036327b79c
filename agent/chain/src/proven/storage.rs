//! Words of a contract's storage, proved below a block's state root (EIP-1186).

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_rlp::{BufMut, Decodable as _, Encodable, Header as List};
use serde::Deserialize;

use super::trie;

/// The answer to `eth_getProof`, not yet believed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountProof {
    /// Nodes from the state root down to the account.
    pub(crate) account_proof: Vec<Bytes>,
    /// Wei.
    pub(crate) balance: U256,
    /// Hash of its code.
    pub(crate) code_hash: B256,
    /// Its nonce.
    pub(crate) nonce: U64,
    /// Root of its storage.
    pub(crate) storage_hash: B256,
    /// One for each slot asked for, in any order.
    pub(crate) storage_proof: Vec<SlotProof>,
}

/// A word of storage and the nodes from the storage's root down to it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlotProof {
    /// The slot. Some endpoints leave out leading zeros.
    pub(crate) key: U256,
    /// Its word.
    pub(crate) value: U256,
    /// The nodes.
    pub(crate) proof: Vec<Bytes>,
}

/// Why an answer proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    /// The account is not what the endpoint says.
    #[error("the proof of account {0} does not lead to the block's state root")]
    Account(Address),
    /// A word is not what the endpoint says.
    #[error("the proof of slot {0} does not lead to the contract's storage root")]
    Slot(B256),
    /// Its code is not what the endpoint says.
    #[error("the code of {0} does not have the proved hash")]
    Code(Address),
    /// Not every slot is there.
    #[error("slot {0} was asked for and is missing")]
    Missing(B256),
}

/// What was proved of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// Two reads with the same root are of the same storage, word for word.
    pub(crate) storage_root: B256,
    /// Hash of its code.
    pub(crate) code_hash: B256,
}

/// Nodes of storage tries. What a hash stands for stays: those of one block serve in the next, but for the few that changed.
pub(crate) type Nodes = BTreeMap<B256, Bytes>;

/// Words below one storage root, as far as the nodes on their ways are known. Only [`Words::prove`] adds any.
#[derive(Debug)]
pub(crate) struct Words {
    root: B256,
    nodes: Nodes,
    used: BTreeSet<B256>,
    /// Those that were looked for and found: a read looks for them again in each round.
    found: BTreeMap<B256, U256>,
}

impl AccountProof {
    /// The account below `state_root`; `None` where it is proved that there is none.
    ///
    /// # Errors
    /// [`Unproven::Account`].
    pub(crate) fn account(&self, state_root: B256, address: Address) -> Result<Option<Account>, Unproven> {
        match trie::find(state_root, keccak256(address), &self.account_proof) {
            Some(None) => Ok(None),
            Some(Some(leaf)) if leaf == self.leaf() => {
                Ok(Some(Account { storage_root: self.storage_hash, code_hash: self.code_hash }))
            }
            _ => Err(Unproven::Account(address)),
        }
    }

    /// As the state's trie has it (yellow paper, 4.1).
    fn leaf(&self) -> Vec<u8> {
        let fields: [&dyn Encodable; 4] = [&self.nonce, &self.balance, &self.storage_hash, &self.code_hash];
        let mut leaf = Vec::new();
        List { list: true, payload_length: fields.iter().map(|field| field.length()).sum() }.encode(&mut leaf);
        for field in fields {
            field.encode(&mut leaf as &mut dyn BufMut);
        }
        leaf
    }
}

impl Words {
    /// Below this root.
    pub(crate) fn below(root: B256) -> Self {
        Self { root, nodes: Nodes::new(), used: BTreeSet::new(), found: BTreeMap::new() }
    }

    /// The same, with nodes that were proved before, below any root.
    pub(crate) fn with_known(mut self, known: &Nodes) -> Self {
        self.nodes.extend(known.iter().map(|(hash, node)| (*hash, node.clone())));
        self
    }

    /// Adds the nodes that lead to every slot in `wanted`, of which the answer must have a proof. Others in it are left out.
    ///
    /// # Errors
    /// The first slot that is missing or not proved; nothing is lost of what was proved before.
    pub(crate) fn prove(&mut self, wanted: &[B256], answer: &[SlotProof]) -> Result<(), Unproven> {
        let given: BTreeMap<B256, &SlotProof> = answer.iter().map(|slot| (B256::from(slot.key), slot)).collect();
        for slot in wanted {
            let given = given.get(slot).ok_or(Unproven::Missing(*slot))?;
            let leaf = trie::find(self.root, keccak256(slot), &given.proof).ok_or(Unproven::Slot(*slot))?;
            if word(leaf) != Some(given.value) {
                return Err(Unproven::Slot(*slot));
            }
            self.nodes.extend(given.proof.iter().map(|node| (keccak256(node), node.clone())));
        }
        Ok(())
    }

    /// A word.
    ///
    /// # Errors
    /// The hash of the node that is missing on its way.
    pub(crate) fn get(&mut self, slot: B256) -> Result<U256, B256> {
        if let Some(found) = self.found.get(&slot) {
            return Ok(*found);
        }
        let (nodes, used) = (&self.nodes, &mut self.used);
        let mut last = self.root;
        let node_of = |hash| {
            last = hash;
            let node = nodes.get(&hash)?;
            used.insert(hash);
            Some(node.as_ref())
        };
        let leaf = trie::find_by(self.root, keccak256(slot), node_of)?;
        let word = word(leaf).ok_or(last)?;
        self.found.insert(slot, word);
        Ok(word)
    }

    /// All nodes.
    #[cfg(test)]
    pub(super) fn into_known(self) -> Nodes {
        self.nodes
    }

    /// The nodes on the way to any word that was looked for: what the next block may still have.
    pub(crate) fn into_used(mut self) -> Nodes {
        self.nodes.retain(|hash, _| self.used.contains(hash));
        self.nodes
    }
}

/// A word of zeros is not in the trie; anvil keeps those that were something else before.
fn word(leaf: Option<&[u8]>) -> Option<U256> {
    leaf.map_or(Some(U256::ZERO), |mut leaf| U256::decode(&mut leaf).ok())
}
