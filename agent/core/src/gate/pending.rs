//! Accepted reads that are not final yet. Finality trails by minutes, and a mesh of thousands that is being deployed changes hundreds
//! of times meanwhile: of each read only what it changed is kept.

use std::collections::{BTreeMap, VecDeque};

use super::{Evidence, Floor, key_epochs};
use crate::{ascending::Ascending, id::TokenId, registry::Registry};

/// Reads that are remembered, at most: only those that changed something are.
const MAX_PENDING: usize = 256;

/// The reads, and what each had of every token. A token that a read did not name is in none before it: that read may have undone it.
#[derive(Debug)]
pub(super) struct Pending {
    /// Ascending by height.
    reads: VecDeque<Read>,
    steps: BTreeMap<TokenId, Steps>,
}

#[derive(Debug)]
struct Read {
    number: u64,
    witnesses: usize,
    epoch: u64,
}

/// The key epochs of one token, both parts strictly ascending: from the read of this height on it had this one.
type Steps = Vec<(u64, u32)>;

impl Pending {
    pub(super) const fn new() -> Self {
        Self { reads: VecDeque::new(), steps: BTreeMap::new() }
    }

    /// Takes in an accepted read. What it undoes was never final, and what it replaces no longer counts.
    pub(super) fn note(&mut self, registry: &Registry, evidence: &Evidence) {
        let (number, epoch, witnesses) = (registry.block.number, registry.epoch, evidence.witnesses);
        self.reads.retain(|read| read.number < number && read.epoch <= epoch);
        self.drop_replaced(registry, evidence);

        let mut known = Ascending::new(std::mem::take(&mut self.steps));
        let mut newest = 0;
        // In order, and of its own tokens as the record has it.
        let values: BTreeMap<TokenId, u32> = key_epochs(registry).collect();
        for (token, key_epoch) in values {
            let mut steps = known.find(token).unwrap_or_default();
            let undone = steps.iter().position(|(at, had)| *at >= number || *had > key_epoch);
            if let Some((from, _)) = undone.and_then(|undone| steps.get(undone).copied()) {
                self.reads.retain(|read| read.number < from);
                steps.retain(|(at, _)| *at < from);
            }
            // What no read that is left had is needed by none.
            let last_read = self.reads.back().map(|read| read.number);
            while steps.last().is_some_and(|(at, _)| last_read.is_none_or(|last| *at > last)) {
                steps.pop();
            }
            if steps.last().is_none_or(|(_, last)| *last != key_epoch) {
                steps.push((number, key_epoch));
            }
            newest = steps.last().map_or(newest, |(at, _)| newest.max(*at));
            self.steps.insert(token, steps);
        }
        let is_same = |last: &Read| last.number >= newest && last.epoch == epoch && last.witnesses >= witnesses;
        if !self.reads.back().is_some_and(is_same) {
            self.reads.push_back(Read { number, witnesses, epoch });
        }
    }

    /// Drops each read whose block is none that this one stands on: a registration that it had is in a later block now. A fork undid it
    /// and it was made again, and might be undone once more, whatever becomes final up to here. Of an invented peer nothing counts.
    fn drop_replaced(&mut self, registry: &Registry, evidence: &Evidence) {
        let mut known = Ascending::new(self.steps.iter().map(|(token, steps)| (*token, steps)));
        for peer in &registry.peers {
            let had = known.find(peer.token).and_then(|steps| steps.iter().find(|(_, had)| *had >= peer.key_epoch));
            let Some((from, _)) = had.filter(|(from, _)| *from < peer.registered_block) else { continue };
            if evidence.signed_key_epochs.contains_key(&peer.token) {
                self.reads.retain(|read| read.number < *from || read.number >= peer.registered_block);
            }
        }
    }

    /// Takes out what is final at this height: of all such reads the last, and the last on which so many sources agreed.
    pub(super) fn take_final(&mut self, finalized: u64, witnesses: usize) -> [Option<Floor>; 2] {
        let final_reads = self.reads.partition_point(|read| read.number <= finalized);
        let superfluous = self.reads.len().saturating_sub(MAX_PENDING);
        let taken: Vec<Read> = self.reads.drain(..final_reads.max(superfluous)).collect();
        let last = taken[..final_reads].last();
        let last_witnessed = taken[..final_reads].iter().rfind(|read| read.witnesses >= witnesses);
        let found = [last, last_witnessed].map(|read| {
            let Read { number, epoch, .. } = *read?;
            let had = |steps: &Steps| Some(steps.iter().rfind(|(at, _)| *at <= number)?.1);
            let key_epochs = self.steps.iter().filter_map(|(token, steps)| Some((*token, had(steps)?)));
            Some(Floor { epoch, key_epochs: key_epochs.collect() })
        });
        if !taken.is_empty() {
            self.forget_before_first();
        }
        found
    }

    /// Of what no read that is left had, nothing is needed.
    fn forget_before_first(&mut self) {
        let first = self.reads.front().map_or(u64::MAX, |read| read.number);
        for steps in self.steps.values_mut() {
            let needed = steps.iter().rposition(|(at, _)| *at <= first).unwrap_or(0);
            steps.drain(..needed);
        }
    }
}
