//! A chain that stands still: nodes whose sources agree that it does keep their peers, and stay ready.

use std::time::Duration;

use mesh_core::freshness::FRESH_BLOCK;

use super::Check;
use crate::{
    cluster::wireguard_key,
    scenario::Fault,
    world::{Event, World},
};

/// A halt so long is looked at ...
const LONG: Duration = Duration::from_secs(600);
/// ... once in this, and once when it is over.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// So soon it is said, after the newest block has become old.
const SAID_WITHIN: Duration = Duration::from_secs(15);

impl World {
    /// The chain halts: if it is for long, every node is looked at from now on.
    pub(crate) fn watch_halt(&mut self, fault: &Fault) {
        let Fault::Halt(lasts) = *fault else { return };
        if lasts >= LONG {
            let until = self.now + lasts;
            self.events.add(self.now, Event::Check(Check::Halted { began: self.now, until }));
        }
    }

    pub(crate) fn check_halted(&mut self, began: Duration, until: Duration) {
        let count = self.nodes.len();
        for number in 0..count {
            let node = &self.nodes[number];
            let Some(process) = &node.process else { continue };
            let peers = (0..count).filter(|other| process.device.has_peer(wireguard_key(*other))).count();
            let ready = process.agent.readiness(node.clock(process.started, self.now));
            if peers != count - 1 || ready.is_err() {
                let what = format!("node {number} has {peers} peers, and is {ready:?}");
                return self.checks.fail("halts-are-survived", self.now, what);
            }
            let status = process.agent.status(node.clock(process.started, self.now));
            let is_warned = status.warnings.iter().any(|warning| warning.code == "W309");
            let is_said = is_warned && status.registry.freshness.halted_since.is_some();
            // The last block was made up to a block's time before, and is read again every ten seconds.
            if self.now > began + FRESH_BLOCK + SAID_WITHIN && !is_said {
                let what = format!("node {number} does not say that the chain stands still: {:?}", status.warnings);
                return self.checks.fail("halts-are-said", self.now, what);
            }
        }
        if self.now < until {
            self.events.add((self.now + LOOK_EVERY).min(until), Event::Check(Check::Halted { began, until }));
        }
    }
}
