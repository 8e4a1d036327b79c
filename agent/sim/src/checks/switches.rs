//! How the path in use changes: no more often than what happens explains, and never back at once to a path that just failed.

use std::time::Duration;

use mesh_core::{
    agent::{PathPeers, PathsSeen},
    id::TokenId,
    path::Switch,
};

use crate::world::World;

/// A path that was left because it failed is used again after it was clean for so long, and not before (`mesh_paths::path`).
const RETURNS_AFTER: Duration = Duration::from_secs(10);

/// The switches of one node to one peer, in the order in which they were made, at times of the world.
#[derive(Debug, Default)]
pub(crate) struct Switches(Vec<Switch>);

impl Switches {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Switch> {
        self.0.iter()
    }

    /// When this path was left last because it failed, no earlier than `since`.
    fn failed(&self, path: Switch, since: Duration) -> Option<Duration> {
        let left = |switch: &&Switch| switch.from == path.to && switch.trouble.is_some() && switch.at >= since;
        self.0.iter().rev().find(left).map(|switch| switch.at)
    }
}

impl World {
    /// What the paths say of themselves, once a second.
    pub(crate) fn note_report(&mut self, node: usize, seen: &PathsSeen) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.seen = Some(seen.clone());
        let started = process.started;
        for (peer, switch) in &seen.switches {
            self.note_switch(node, *peer, Switch { at: started + switch.at, ..*switch });
        }
    }

    fn note_switch(&mut self, node: usize, peer: TokenId, switch: Switch) {
        let known_since = self.nodes[node].paths_since.get(&peer).copied().unwrap_or(self.now);
        let switches = self.switches.entry((node, peer)).or_default();
        let failed = switches.failed(switch, known_since).filter(|_| switch.trouble.is_none());
        switches.0.push(switch);
        if let Some(failed) = failed.filter(|failed| switch.at < *failed + RETURNS_AFTER) {
            let what = format!(
                "node {node} went back to {:?} with token {peer} at {:.3?}, and had left it at {failed:.3?} because it failed",
                switch.to, switch.at
            );
            self.checks.fail("no-flapping", self.now, what);
        }
    }

    /// The paths are to be kept to these peers from now on: of every other one they know nothing any more.
    pub(crate) fn note_path_peers(&mut self, node: usize, wanted: &PathPeers) {
        let (now, known) = (self.now, &mut self.nodes[node].paths_since);
        known.retain(|peer, _| wanted.peers.contains_key(peer));
        for peer in wanted.peers.keys() {
            known.entry(*peer).or_insert(now);
        }
    }

    /// The path in use changes no more often than what happens explains: off a path and back.
    pub(super) fn check_switches(&mut self) {
        let allowed = 2 + 2 * self.path_events;
        let switches = self.switches.iter().map(|(between, switches)| (between, switches.0.len()));
        let most = switches.max_by_key(|(_, switches)| *switches);
        if let Some(((node, peer), switches)) = most.filter(|(_, switches)| *switches > allowed) {
            let what = format!("node {node} switched paths to {peer} {switches} times for {} events", self.path_events);
            self.checks.fail("no-flapping", self.now, what);
        }
    }
}
