//! What the agent is told, and how often.

use std::time::Duration;

use mesh_core::{agent::PathsSeen, id::TokenId, path::Switch};

use super::{super::report, Driver};
use crate::gateway::Report;

/// The agent is told once in this time, and this more for each peer: of a thousand, every few seconds.
const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY_PER_PEER: Duration = Duration::from_millis(4);
/// Of a switch it is told at once, but not more often than this.
const TELL_SWITCHES_EVERY: Duration = Duration::from_millis(100);
/// Switches that the agent was not told of yet; it always takes them before.
const SWITCHES: usize = 4096;

impl Driver {
    /// Something is to be told, when it is time.
    pub(super) fn want_to_tell(&mut self, now: Duration) {
        let pause = self.for_each_peer(TELL_EVERY_PER_PEER, TELL_EVERY);
        self.tell_due.get_or_insert(self.told.map_or(now, |told| now.max(told + pause)));
    }

    /// Tells the agent how things are.
    pub(super) fn tell(&mut self, streams: &Report) {
        let now = self.now();
        // With the last still untaken the agent is busy: it will get the next.
        let Ok(room) = self.seen.try_reserve() else {
            self.tell_due = Some(now + TELL_EVERY);
            return;
        };
        if self.refused > 0 {
            tracing::debug!(refused = self.refused, "packets between the probe ports were of no use");
            self.refused = 0;
        }
        let own = self.own_place.as_ref();
        let peers =
            self.peers.iter().map(|(token, peer)| (*token, report::peer(peer, streams.peers.get(token), own, now)));
        let peers = peers.collect();
        let switches = std::mem::take(&mut self.switches);
        room.send(PathsSeen { at: now, peers, streams: Some(streams.streams), switches });
        self.told = Some(now);
    }

    /// Packets to a peer take another path: the agent is told at once.
    pub(super) fn note_switch(&mut self, token: TokenId, switch: Switch, now: Duration) {
        report::log(token, &switch);
        if self.switches.len() < SWITCHES {
            self.switches.push((token, switch));
        }
        let at = self.told.map_or(now, |told| now.max(told + TELL_SWITCHES_EVERY));
        self.tell_due = Some(self.tell_due.map_or(at, |due| due.min(at)));
    }
}
