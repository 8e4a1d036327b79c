//! Sources that are behind an agreed read: what they say must be its past, or the sources ahead of them lie.
//!
//! A source cannot be asked about a head later than its own. So it is asked for what it has, and what was
//! agreed is remembered until it gets there.

use std::collections::VecDeque;

use crate::registry::Registry;

/// A source whose newest block has advanced by this many seconds since something was agreed must know of it.
const CATCH_UP: u64 = 120;
/// Changes that are remembered, at most: the latest.
const MAX_STEPS: usize = 256;

/// The agreed reads that are still needed.
#[derive(Debug, Default)]
pub struct Agreed {
    /// Ascending by epoch and by height.
    steps: VecDeque<Step>,
}

/// The first agreed read of an epoch.
#[derive(Debug)]
struct Step {
    epoch: u64,
    number: u64,
    /// The timestamp of the newest block of the sources that were behind it then.
    known_until: Option<u64>,
}

impl Agreed {
    /// Remembers an agreed read, and says of each source behind it whether the two contradict each other.
    pub fn judge(&mut self, agreed: &Registry, behind: &[&Registry]) -> Vec<bool> {
        self.note(agreed, behind.iter().map(|registry| registry.block.timestamp).max());
        behind.iter().map(|registry| self.contradicts(agreed, registry)).collect()
    }

    fn note(&mut self, agreed: &Registry, known_until: Option<u64>) {
        // What a reorg undid never happened.
        while self.steps.back().is_some_and(|last| last.epoch > agreed.epoch || last.number > agreed.block.number) {
            self.steps.pop_back();
        }
        if self.steps.back().is_none_or(|last| last.epoch < agreed.epoch) {
            self.steps.push_back(Step { epoch: agreed.epoch, number: agreed.block.number, known_until });
        }
        if self.steps.len() > MAX_STEPS {
            self.steps.pop_front();
        }
    }

    fn contradicts(&self, agreed: &Registry, behind: &Registry) -> bool {
        if behind.domain != agreed.domain || behind.network != agreed.network || behind.epoch > agreed.epoch {
            return true;
        }
        if behind.epoch == agreed.epoch {
            let same = Registry { block: agreed.block, finalized: agreed.finalized, ..behind.clone() };
            return same != *agreed;
        }
        self.steps.iter().filter(|step| step.epoch > behind.epoch).any(|step| {
            let is_there = step.number <= behind.block.number;
            let had_time = step.known_until.is_some_and(|then| behind.block.timestamp >= then.saturating_add(CATCH_UP));
            is_there || had_time
        })
    }
}
