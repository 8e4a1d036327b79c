//! The contract's storage as a set of words, and a state with it that can prove them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles, TrieAccount, proof::ProofRetainer};
use mesh_contract::IMPLEMENTATION_SLOT;
use mesh_core::id::TokenId;

use crate::proven::{
    Contents, For, layout, read,
    storage::{AccountProof, SlotProof},
};

pub(in crate::proven) const CONTRACT: Address = Address::repeat_byte(0xc0);

/// SplitMix64.
pub(in crate::proven) struct Rng(u64);

impl Rng {
    pub(in crate::proven) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(in crate::proven) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Written as the real one does, by slots. That these are the real one's is shown against the real one (`tests/contract`).
#[derive(Clone)]
pub(super) struct Contract {
    words: BTreeMap<B256, U256>,
    tokens: u64,
}

impl Contract {
    /// Another account of the same state, whose storage is empty but for one word.
    pub(super) const OTHER: Address = Address::repeat_byte(0xc1);

    /// Some tokens, most of them registered, some of these under a KMS root that was removed.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let tokens = 3 + rng.below(9) as u64;
        Self::random_of(tokens, rng)
    }

    /// At most 255.
    pub(super) fn random_of(tokens: u64, rng: &mut Rng) -> Self {
        let mut made = Self { words: BTreeMap::new(), tokens };
        made.set(IMPLEMENTATION_SLOT, U256::from(rng.next()));
        made.totals(1 + rng.below(1000) as u64);
        made.set(layout::NAME, text("mesh"));
        // Two roots, of which the second was replaced: generation 3 in slot 1.
        for (slot, generation) in [(0, 1), (1, 3)] {
            made.set(layout::kms_root(slot), U256::from(0xaa + slot) | field(generation, 20));
            made.set(layout::app_id(slot), U256::from(0xbb + slot) | field(generation, 20));
        }
        made.set(layout::base_domains(), U256::ONE);
        made.set(layout::content(layout::base_domains()), text("gw.example"));
        for id in 1..=made.tokens {
            made.set(layout::record(token(id), 3), U256::from_be_slice(&[id as u8; 20]));
            if rng.below(4) > 0 {
                made.register(id, rng);
            }
        }
        made
    }

    /// One more epoch, in which some token registers, moves or leaves.
    pub(super) fn change(&mut self, rng: &mut Rng) {
        self.next_epoch();
        let id = 1 + rng.below(self.tokens as usize) as u64;
        if self.is_listed(id) && rng.below(2) == 0 {
            self.leave(id);
        } else {
            self.register(id, rng);
        }
    }

    pub(super) fn hide(&mut self, rng: &mut Rng) {
        let id = self.some_peer(rng);
        self.leave(id);
    }

    pub(super) fn invent(&mut self, rng: &mut Rng) {
        let id = (1..=self.tokens).find(|id| !self.is_listed(*id)).unwrap_or_else(|| {
            self.tokens += 1;
            self.totals(self.epoch());
            self.tokens
        });
        self.register(id, rng);
    }

    pub(super) fn swap_key(&mut self, rng: &mut Rng) {
        let id = self.some_peer(rng);
        self.set(layout::record(token(id), 0), U256::from(rng.next()));
    }

    pub(super) fn move_one(&mut self, rng: &mut Rng) {
        let slot = layout::record(token(self.some_peer(rng)), 2);
        self.set(slot, self.word(slot) ^ U256::from(1 + rng.below(0xffff)));
    }

    /// The generation that was removed is current.
    pub(super) fn revive(&mut self) {
        self.set(layout::kms_root(1), U256::from(0xab) | field(2, 20));
    }

    pub(super) fn next_epoch(&mut self) {
        self.totals(self.epoch() + 1);
    }

    pub(super) fn word(&self, slot: B256) -> U256 {
        self.words.get(&slot).copied().unwrap_or_default()
    }

    /// What is there, without any proof.
    pub(super) fn contents(&self) -> Contents {
        let reader =
            For { instance: mesh_core::id::InstanceId([1; 20]), own_token: TokenId::new(1), max_dev_peers: 1000 };
        read(|slot| Ok(self.word(slot)), reader).unwrap()
    }

    pub(super) fn state_root(&self) -> B256 {
        trie(&self.accounts(), &[]).0
    }

    /// What an honest endpoint answers.
    pub(super) fn prove(&self, account: Address, slots: &[B256]) -> AccountProof {
        let storage = self.storage(account);
        let keys: Vec<B256> = slots.iter().map(keccak256).collect();
        let (root, nodes) = trie(&storage, &keys);
        let proof = |(slot, proof): (&B256, Vec<Bytes>)| SlotProof {
            key: (*slot).into(),
            value: if account == CONTRACT { self.word(*slot) } else { U256::ZERO },
            proof,
        };
        AccountProof {
            account_proof: trie(&self.accounts(), &[keccak256(account)]).1.remove(0),
            balance: U256::ZERO,
            code_hash: B256::repeat_byte(5),
            nonce: U64::from(1),
            storage_hash: root,
            storage_proof: slots.iter().zip(nodes).map(proof).collect(),
        }
    }

    fn storage(&self, account: Address) -> BTreeMap<B256, Vec<u8>> {
        let words = self.words.iter().filter(|_| account == CONTRACT).filter(|(_, word)| !word.is_zero());
        words.map(|(slot, word)| (keccak256(slot), alloy_rlp::encode(word))).collect()
    }

    fn accounts(&self) -> BTreeMap<B256, Vec<u8>> {
        let mut accounts = BTreeMap::new();
        for account in [CONTRACT, Self::OTHER] {
            let storage_root = trie(&self.storage(account), &[]).0;
            let leaf = TrieAccount { nonce: 1, balance: U256::ZERO, storage_root, code_hash: B256::repeat_byte(5) };
            accounts.insert(keccak256(account), alloy_rlp::encode(leaf));
        }
        accounts
    }

    fn set(&mut self, slot: B256, word: U256) {
        self.words.insert(slot, word);
    }

    fn epoch(&self) -> u64 {
        self.contents().history.epoch
    }

    fn totals(&mut self, epoch: u64) {
        let history = U256::from_be_slice(&keccak256(epoch.to_be_bytes())[..20]) << (8 * 12);
        self.set(layout::MEMBERS, U256::from(epoch) | field(self.tokens, layout::SUPPLY) | history);
        self.set(layout::network(), U256::from(0x0a00_0100) | field(24, 4));
    }

    fn register(&mut self, id: u64, rng: &mut Rng) {
        let anchor = rng.below(2) as u64;
        // Of slot 1 the generation before the present one: stale.
        // One in three is a TLS node, one in three has a TLS key beside its WireGuard key.
        let (wireguard, beside) = [(0, 0), (1, 0), (1, 1)][rng.below(3)];
        if beside == 1 {
            self.set(layout::record(token(id), 4), U256::from(rng.next()));
        }
        let reference = anchor << 20 | if anchor == 0 { 1 } else { 2 };
        self.set(layout::record(token(id), 0), U256::from(rng.next()));
        self.set(
            layout::record(token(id), 1),
            U256::from(rng.next()) | field(2, 20) | field(wireguard, 24) | field(7, 25) | field(1 + beside, 31),
        );
        self.set(
            layout::record(token(id), 2),
            U256::from(rng.next()) | field(rng.next() & 0xffff, 16) | field(reference, 22) | field(1, 25),
        );
        self.list(id, true);
    }

    fn leave(&mut self, id: u64) {
        for n in [0, 1, 2, 4] {
            self.set(layout::record(token(id), n), U256::ZERO);
        }
        self.list(id, false);
    }

    fn list(&mut self, id: u64, listed: bool) {
        let (leaf, summary) = (layout::leaf(layout::REGISTERED, 0), layout::summary(layout::REGISTERED));
        let mut ids = self.word(leaf);
        ids.set_bit(id as usize, listed);
        self.set(leaf, ids);
        self.set(summary, U256::from(!ids.is_zero()));
    }

    fn is_listed(&self, id: u64) -> bool {
        self.word(layout::leaf(layout::REGISTERED, 0)).bit(id as usize)
    }

    /// A registered one; the first token is made one if there is none.
    fn some_peer(&mut self, rng: &mut Rng) -> u64 {
        let listed: Vec<u64> = (1..=self.tokens).filter(|id| self.is_listed(*id)).collect();
        if listed.is_empty() { 1 } else { listed[rng.below(listed.len())] }
    }
}

fn token(id: u64) -> TokenId {
    TokenId::new(id as u32).unwrap()
}

fn field(value: u64, offset: usize) -> U256 {
    U256::from(value) << (8 * offset)
}

/// A string of up to 31 bytes.
fn text(text: &str) -> U256 {
    let mut word = [0; 32];
    word[..text.len()].copy_from_slice(text.as_bytes());
    word[31] = 2 * text.len() as u8;
    U256::from_be_bytes(word)
}

/// The root, and for each key the nodes on its way.
fn trie(leaves: &BTreeMap<B256, Vec<u8>>, keys: &[B256]) -> (B256, Vec<Vec<Bytes>>) {
    if leaves.is_empty() {
        return (EMPTY_ROOT_HASH, vec![Vec::new(); keys.len()]);
    }
    let keys: Vec<Nibbles> = keys.iter().map(Nibbles::unpack).collect();
    let targets: BTreeSet<Nibbles> = keys.iter().copied().collect();
    let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::from_iter(targets));
    for (path, value) in leaves {
        builder.add_leaf(Nibbles::unpack(path), value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let way = |key: &Nibbles| nodes.matching_nodes_sorted(key).into_iter().map(|(_, node)| node).collect();
    (root, keys.iter().map(way).collect())
}
