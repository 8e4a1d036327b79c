//! Blocks, and who hears of them.

use std::time::Duration;

use super::{Event, World};
use crate::{
    checks::Check,
    contract::Effect,
    rpc::{Endpoint, Lie},
    scenario::Profile,
};

/// How long until a watched endpoint is asked for the epoch, at most, where it does not announce changes.
const POLLED_WITHIN: u64 = 1500;
/// An epoch that was not read by then is hinted at again.
const HINTED_AGAIN: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(400), Duration::from_millis(1400), Duration::from_millis(3400)];

impl World {
    /// A block is made, unless the chain stands still.
    pub(super) fn make_block(&mut self) {
        let next = self.now + self.scenario.world.block_time;
        if self.now < self.chain.halted_until {
            self.events.add(self.chain.halted_until.max(next), Event::Block);
            return;
        }
        let before = self.chain.head().state.epoch;
        let outcomes = self.chain.mine(self.now);
        self.events.add(next, Event::Block);
        self.announce(before, &outcomes);
    }

    pub(super) fn reorganise(&mut self, depth: u64) {
        self.note_called_final();
        let before = self.chain.head().state.epoch;
        let (replaced, outcomes) = self.chain.reorganise(depth, self.now, &mut self.rng);
        if replaced > 0 {
            self.checks.note_reorganisation(self.chain.head().at.number - replaced);
            self.announce(before, &outcomes);
        }
    }

    /// Up to where an endpoint lies that the chain is final.
    pub(super) fn note_called_final(&mut self) {
        if self.endpoints.iter().any(|endpoint| matches!(endpoint.lie, Some((Lie::FinalizedEarly, _)))) {
            self.checks.note_called_final(self.chain.head().at.number);
        }
    }

    /// Nodes hear of another epoch from every endpoint that sees it, when it is next asked; each endpoint has its turn.
    fn announce(&mut self, before: u64, outcomes: &[Effect]) {
        let is_seeing = |endpoint: &Endpoint| !endpoint.is_down && endpoint.frozen_at.is_none();
        let all = self.endpoints.len() as u64;
        let seeing: Vec<(u64, Duration)> =
            (0..).zip(&self.endpoints).filter(|(_, endpoint)| is_seeing(endpoint)).map(|(n, it)| (n, it.lag)).collect();
        let is_news = self.chain.head().state.epoch != before;
        for node in (0..self.nodes.len()).filter(|node| is_news && !self.is_blocked(*node)).collect::<Vec<_>>() {
            let phase = self.rng.below(POLLED_WITHIN);
            for (turn, lag) in &seeing {
                let turn = Duration::from_millis((phase + turn * POLLED_WITHIN / all) % POLLED_WITHIN);
                let takes = self.rng.millis(1, 30);
                for again in HINTED_AGAIN {
                    self.events.add(self.now + *lag + turn + takes + again, Event::Hint(node));
                }
            }
        }
        for outcome in outcomes {
            match *outcome {
                Effect::Left(token, key) => {
                    self.checks.note_left(token);
                    if self.scenario.profile == Profile::Blind {
                        self.expect_told(token, key);
                    }
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
            let is_informed = running && honest >= need && node.blocked.is_none() && node.failing_change.is_none();
            node.informed_since = is_informed.then(|| node.informed_since.unwrap_or(now));
        }
    }
}
