//! Blocks, and who hears of them.

use std::{collections::BTreeSet, time::Duration};

use super::{Event, World};
use crate::{checks::Check, contract::Effect, rpc::Lie, scenario::Profile};

/// A head that was announced is asked for once more after this.
const HEAD_PAUSE: Duration = Duration::from_millis(100);

impl World {
    /// A block is made, unless the chain stands still.
    pub(super) fn make_block(&mut self) {
        let next = self.now + self.scenario.world.block_time;
        if self.now < self.chain.halted_until {
            self.events.add(self.chain.halted_until.max(next), Event::Block);
            return;
        }
        let outcomes = self.chain.mine(self.now);
        self.events.add(next, Event::Block);
        self.announce(&outcomes);
    }

    pub(super) fn reorganise(&mut self, depth: u64) {
        self.note_called_final();
        let (replaced, outcomes) = self.chain.reorganise(depth, self.now, &mut self.rng);
        if replaced > 0 {
            self.checks.note_reorganisation(self.chain.head().at.number - replaced);
            self.announce(&outcomes);
        }
    }

    /// Up to where an endpoint lies that the chain is final.
    pub(super) fn note_called_final(&mut self) {
        if self.endpoints.iter().any(|endpoint| matches!(endpoint.lie, Some((Lie::FinalizedEarly, _)))) {
            self.checks.note_called_final(self.chain.head().at.number);
        }
    }

    /// Nodes hear of a new head from every endpoint that sees it, as soon as that does.
    fn announce(&mut self, outcomes: &[Effect]) {
        let seeing = self.endpoints.iter().filter(|endpoint| !endpoint.is_down && endpoint.frozen_at.is_none());
        let lags: BTreeSet<Duration> = seeing.map(|endpoint| endpoint.lag).collect();
        for lag in lags {
            let pauses = if outcomes.is_empty() { vec![Duration::ZERO] } else { vec![Duration::ZERO, HEAD_PAUSE] };
            for (node, pause) in (0..self.nodes.len()).flat_map(|node| pauses.iter().map(move |pause| (node, *pause))) {
                let takes = self.rng.millis(1, 30);
                self.events.add(self.now + lag + takes + pause, Event::Hint(node));
            }
        }
        for outcome in outcomes {
            match *outcome {
                Effect::Left(token, key) => {
                    self.checks.note_left(token);
                    for node in 0..self.nodes.len() {
                        self.events.add(
                            self.now + Check::GONE_WITHIN,
                            Event::Check(Check::Gone { node, token, key, left: self.now }),
                        );
                    }
                }
                Effect::Joined(token, _) if self.scenario.profile == Profile::Calm => {
                    let node = token.get() as usize - 1;
                    let confirmations = self.nodes.iter().map(|node| node.plan.confirmations).max().unwrap_or(0);
                    let blocks = u32::try_from(2 * confirmations).unwrap_or(0);
                    let due = self.now + Check::JOINED_WITHIN + self.scenario.world.block_time * blocks;
                    if due < self.scenario.length {
                        self.events.add(due, Event::Check(Check::Joined { node, joined: self.now }));
                    }
                }
                Effect::Joined(..) | Effect::Other => {}
            }
        }
    }

    /// The endpoints can be read again, or differently: watchers notice within a second.
    pub(super) fn hint_all(&mut self) {
        for node in 0..self.nodes.len() {
            let takes = self.rng.millis(0, 1000);
            self.events.add(self.now + takes, Event::Hint(node));
        }
    }

    /// Notes for every node since when it is told the truth by as many endpoints as must agree.
    pub(super) fn note_informed(&mut self) {
        let honest = self.endpoints.iter().filter(|endpoint| endpoint.is_honest()).count();
        let (now, need) = (self.now, self.scenario.world.need);
        for node in &mut self.nodes {
            let running = node.process.as_ref().is_some_and(|process| !process.is_stopping);
            let is_informed = running && honest >= need && node.failing_change.is_none();
            node.informed_since = is_informed.then(|| node.informed_since.unwrap_or(now));
        }
    }
}
