//! The chain: blocks that link to their parents, forks, and transactions that wait for the next block, or are lost.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use alloy_primitives::keccak256;
use mesh_core::{
    id::{B256, BlockRef, TokenId, WireguardKey},
    registration::Proof,
};

use crate::{
    cluster::cluster,
    contract::{Effect, State, Transaction},
    rng::Rng,
};

/// Wall clock at the beginning of every run, Unix seconds.
pub(crate) const UNIX: u64 = 1_700_000_000;
/// Height of the first block.
const FIRST: u64 = 100;

/// A block. Its hash tells the branch.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) at: BlockRef,
    parent: Option<Rc<Self>>,
    pub(crate) state: Rc<State>,
    /// The height that is final as of this block.
    pub(crate) finalized: Option<u64>,
    transactions: Vec<Transaction>,
    proofs: Vec<(TokenId, Proof)>,
}

#[derive(Debug)]
pub(crate) struct Chain {
    /// Every block that was ever the head, and since when: endpoints that lag still see the earlier ones.
    heads: Vec<(Duration, Rc<Block>)>,
    /// The head and all its ancestors, from the first block on: a walk from the head would be most of a long run.
    blocks: Vec<Rc<Block>>,
    waiting: Vec<Transaction>,
    branch: u64,
    /// Blocks on top that make one final; `None` where nothing is ever final.
    finality: Option<u64>,
    /// Keys that any block has ever listed, those of abandoned branches included.
    ever: BTreeSet<(TokenId, WireguardKey)>,
    /// No blocks are made until then.
    pub(crate) halted_until: Duration,
    /// Transactions that are submitted until then are lost.
    pub(crate) loses_until: Duration,
}

impl Block {
    /// The ancestor at this height, which may be the block itself.
    pub(crate) fn ancestor(self: &Rc<Self>, number: u64) -> Option<Rc<Self>> {
        let mut block = self;
        while block.at.number > number {
            block = block.parent.as_ref()?;
        }
        (block.at.number == number).then(|| Rc::clone(block))
    }

    /// The proof that a registration in this block was made with.
    pub(crate) fn proof(&self, token: TokenId) -> Option<&Proof> {
        self.proofs.iter().rev().find(|(of, _)| *of == token).map(|(_, proof)| proof)
    }
}

impl Chain {
    /// The first block carries out these transactions.
    pub(crate) fn new(finality: Option<u64>, first: &[Transaction]) -> Self {
        let mut chain = Self {
            heads: Vec::new(),
            blocks: Vec::new(),
            waiting: first.to_vec(),
            branch: 0,
            finality,
            ever: BTreeSet::new(),
            halted_until: Duration::ZERO,
            loses_until: Duration::ZERO,
        };
        chain.mine(Duration::ZERO);
        chain
    }

    pub(crate) fn head(&self) -> &Rc<Block> {
        &self.heads[self.heads.len() - 1].1
    }

    /// The head's ancestor at this height, which may be the head itself.
    pub(crate) fn at(&self, number: u64) -> Option<&Rc<Block>> {
        self.blocks.get(usize::try_from(number.checked_sub(FIRST)?).ok()?)
    }

    /// The head as of then.
    pub(crate) fn head_at(&self, then: Duration) -> &Rc<Block> {
        let later = self.heads.partition_point(|(since, _)| *since <= then);
        &self.heads[later.max(1) - 1].1
    }

    pub(crate) fn was_ever_listed(&self, token: TokenId, key: WireguardKey) -> bool {
        self.ever.contains(&(token, key))
    }

    /// The number of the newest block that lists this key.
    pub(crate) fn last_listed(&self, key: WireguardKey) -> Option<u64> {
        let lists = |block: &&Rc<Block>| block.state.peers().any(|peer| peer.wireguard_key == key);
        self.blocks.iter().rev().find(lists).map(|block| block.at.number)
    }

    /// Takes a transaction for the next block; `false` where the contract would revert as things are.
    pub(crate) fn submit(&mut self, transaction: Transaction, now: Duration) -> bool {
        let head = self.head();
        let mut state = State::clone(&head.state);
        let fits = state.execute(&transaction, head.at.number + 1, head.at.timestamp).is_some();
        if fits && now >= self.loses_until {
            self.waiting.push(transaction);
        }
        fits
    }

    /// Submits an operator's transaction, which is never lost: the operator would repeat it. One that reverts is forgotten.
    pub(crate) fn operate(&mut self, transaction: Transaction) {
        self.waiting.push(transaction);
    }

    /// Makes the next block of everything that waits.
    pub(crate) fn mine(&mut self, now: Duration) -> Vec<Effect> {
        let transactions = std::mem::take(&mut self.waiting);
        let parent = self.heads.last().map(|(_, head)| Rc::clone(head));
        let (block, outcomes) = self.block(parent, transactions, now);
        self.blocks.push(Rc::clone(&block));
        self.heads.push((now, block));
        outcomes
    }

    /// Replaces the last `depth` blocks by as many others, never a final one. Of the transactions in them some are carried out again,
    /// the others never happened. Returns the number of blocks replaced, and what became of the transactions.
    pub(crate) fn reorganise(&mut self, depth: u64, now: Duration, rng: &mut Rng) -> (u64, Vec<Effect>) {
        let head = Rc::clone(self.head());
        let lowest = head.finalized.unwrap_or(0).max(FIRST);
        let fork = head.at.number.saturating_sub(depth).max(lowest).min(head.at.number);
        let mut kept = Vec::new();
        for number in fork + 1..=head.at.number {
            let block = head.ancestor(number).unwrap();
            kept.extend(block.transactions.iter().filter(|_| rng.chance(600)).cloned());
        }
        self.branch += 1;
        let mut outcomes = Vec::new();
        let mut parent = head.ancestor(fork);
        self.blocks.retain(|block| block.at.number <= fork);
        for number in fork + 1..=head.at.number {
            let transactions = if number == head.at.number { std::mem::take(&mut kept) } else { Vec::new() };
            let (block, made) = self.block(parent, transactions, now);
            outcomes.extend(made);
            self.blocks.push(Rc::clone(&block));
            parent = Some(block);
        }
        if fork < head.at.number {
            self.heads.push((now, parent.unwrap()));
        }
        (head.at.number - fork, outcomes)
    }

    fn block(
        &mut self,
        parent: Option<Rc<Block>>,
        transactions: Vec<Transaction>,
        now: Duration,
    ) -> (Rc<Block>, Vec<Effect>) {
        let number = parent.as_ref().map_or(FIRST, |parent| parent.at.number + 1);
        // As on a real chain, a block is never older than its parent.
        let timestamp = (UNIX + now.as_secs()).max(parent.as_ref().map_or(0, |parent| parent.at.timestamp));
        let hash = hash(number, self.branch);
        let mut state = parent.as_ref().map_or_else(State::default, |parent| State::clone(&parent.state));
        let (mut outcomes, mut proofs, mut carried_out) = (Vec::new(), Vec::new(), Vec::new());
        for transaction in transactions {
            let Some(effect) = state.execute(&transaction, number, timestamp) else { continue };
            if let Transaction::Register(registration) = &transaction {
                proofs.push((registration.token, cluster().prove(*registration)));
            }
            if let Effect::Joined(token, key) = effect {
                self.ever.insert((token, key));
            }
            outcomes.push(effect);
            carried_out.push(transaction);
        }
        let before = parent.as_ref().and_then(|parent| parent.finalized);
        let finalized = self.finality.map(|depth| number.saturating_sub(depth)).filter(|height| *height >= FIRST);
        let state = match (&parent, carried_out.is_empty()) {
            (Some(parent), true) => Rc::clone(&parent.state),
            _ => Rc::new(state),
        };
        let block = Block {
            at: BlockRef { number, hash, timestamp },
            parent,
            state,
            finalized: finalized.max(before),
            transactions: carried_out,
            proofs,
        };
        (Rc::new(block), outcomes)
    }
}

fn hash(number: u64, branch: u64) -> B256 {
    keccak256([number.to_be_bytes(), branch.to_be_bytes()].concat())
}

/// A chain of blocks is as deep as it is long: dropped one by one, not one inside of the other.
impl Drop for Block {
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut block) = parent.and_then(Rc::into_inner) {
            parent = block.parent.take();
        }
    }
}
