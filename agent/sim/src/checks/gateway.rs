//! A gateway that is away: each node that has streams through it says so of every peer behind it, and says the same.

use std::time::Duration;

use mesh_core::{
    path::{PathKind, Trouble, rank},
    status::Reason,
};

use super::Check;
use crate::{
    cluster::token,
    scenario::{Fault, GatewayEnd, Profile},
    world::{Event, World},
};

/// So soon a node knows whose streams it ended: it dials within a second, and reports its paths once in one.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// So soon it knows where the gateway vanished and ended nothing, whether packets go by it or not.
const MISSED_WITHIN: Duration = Duration::from_secs(10);
/// A stream that lasted for so long is dialed again at once.
const LASTED: Duration = Duration::from_secs(6);

impl World {
    /// The gateway is killed or crashes: the nodes that had streams are looked at later, if it is away until then.
    pub(crate) fn expect_reasons(&mut self, fault: &Fault) {
        let Fault::GatewayEnds(end, lasts) = *fault else { return };
        let within = match end {
            GatewayEnd::Killed => KNOWN_WITHIN,
            GatewayEnd::Crashed => MISSED_WITHIN,
        };
        if self.scenario.profile != Profile::Gateway || lasts < within {
            return;
        }
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|node| self.has_stream(*node)).collect();
        for node in nodes {
            let generation = self.nodes[node].generation;
            self.events.add(self.now + within, Event::Check(Check::Reasons { node, generation, began: self.now, end }));
        }
    }

    fn has_stream(&self, node: usize) -> bool {
        let seen = self.nodes[node].process.as_ref().and_then(|process| process.seen.as_ref());
        seen.is_some_and(|seen| {
            let mut streams = seen.peers.values().filter_map(|peer| peer.gateway.as_ref()?.open_for);
            streams.any(|open_for| open_for >= LASTED)
        })
    }

    pub(crate) fn check_reasons(&mut self, node: usize, generation: u64, began: Duration, end: GatewayEnd) {
        if self.nodes[node].generation != generation {
            return;
        }
        let seen = self.nodes[node].process.as_ref().and_then(|process| process.seen.as_ref());
        let Some(seen) = seen else { return };
        let plans = &self.scenario.world.nodes;
        let has_gateway = |other: usize| plans[node].has_place || plans[other].has_place;
        for other in (0..plans.len()).filter(|other| has_gateway(*other)) {
            let was_known = self.paths_since(node, other).is_some_and(|since| since <= began);
            let Some(peer) = seen.peers.get(&token(other)).filter(|_| was_known) else { continue };
            let path = &peer.report.paths[rank(PathKind::Gateway)];
            let is_known = match path.trouble {
                Some(Trouble::Away(reason)) => reason == Some(Reason::GatewayUnreachable),
                // Nothing has ended the stream.
                Some(Trouble::Silent | Trouble::OneWay) => end == GatewayEnd::Crashed,
                _ => false,
            };
            if !is_known || path.reason != Some(Reason::GatewayUnreachable) {
                let what = format!(
                    "the gateway is away since {began:.3?}, and node {node} says of node {other}: {:?}, {:?}",
                    path.trouble, path.reason
                );
                return self.checks.fail("gateway-away-is-said", self.now, what);
            }
        }
    }
}
