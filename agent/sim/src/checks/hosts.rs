//! Hosts that move, and agents that stop in order: their peers know at once.

use std::time::Duration;

use mesh_core::{
    path::{KINDS, PathKind, rank},
    status::PeerState,
};

use super::Check;
use crate::{
    cluster::{token, wireguard_key},
    scenario::Profile,
    world::{Event, World},
};

/// A host that has another address is reached there so soon, and a peer whose agent stops is shown so.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Nodes, one bit for each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Nodes(u64);

impl Nodes {
    fn has(self, node: usize) -> bool {
        self.0 >> node & 1 == 1
    }
}

impl FromIterator<usize> for Nodes {
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Self {
        Self(nodes.into_iter().fold(0, |bits, node| bits | 1 << node))
    }
}

impl World {
    /// The host of a node has another address now. Its peers are to know soon, where direct UDP had been proved.
    pub(crate) fn expect_move(&mut self, node: usize) {
        let peers = self.peers_by(node, &[PathKind::Direct]);
        let check = Check::Moved { node, peers, moved: self.now };
        self.events.add(self.now + KNOWN_WITHIN, Event::Check(check));
    }

    /// The agent of a node stops in order. Its peers are to know soon, where any path had been proved.
    pub(crate) fn expect_stop(&mut self, node: usize) {
        if self.scenario.profile == Profile::Hosts {
            let peers = self.peers_by(node, &KINDS);
            let check = Check::Stopped { node, peers, stopped: self.now };
            self.events.add(self.now + KNOWN_WITHIN, Event::Check(check));
        }
    }

    /// The running nodes that had a round trip with that one by a path of these kinds, and rely on it.
    fn peers_by(&self, node: usize, kinds: &[PathKind]) -> Nodes {
        let relies = |other: &usize| {
            let process = self.nodes[*other].process.as_ref().filter(|process| !process.is_stopping);
            let report = process.and_then(|process| process.seen.as_ref()?.peers.get(&token(node)));
            report.is_some_and(|seen| {
                let paths = kinds.iter().map(|kind| &seen.report.paths[rank(*kind)]);
                paths.into_iter().any(|path| path.usable && path.proved.is_some())
            })
        };
        let runs = self.nodes[node].process.is_some();
        (0..self.nodes.len()).filter(|other| runs && *other != node && relies(other)).collect()
    }

    /// Every peer sends to where the node is, and applications have heard each other since.
    pub(crate) fn check_moved(&mut self, node: usize, peers: Nodes, moved: Duration) {
        let (now, place) = (self.now, self.network.local(node));
        for other in (0..self.nodes.len()).filter(|other| peers.has(*other)) {
            let wall = self.nodes[other].wall_clock(now);
            let device = self.nodes[other].process.as_ref().and_then(|process| process.device.observe(now, wall));
            let Some(device) = device else { continue };
            let peer = device.peers.iter().find(|peer| peer.public_key == wireguard_key(node));
            let endpoint = peer.and_then(|peer| peer.endpoint);
            if endpoint != Some(place) {
                let what =
                    format!("node {node} is at {place} since {moved:.3?}, and node {other} sends to {endpoint:?}");
                return self.checks.fail("moves-in-time", now, what);
            }
            let is_between = |from: usize, to: usize| [(node, other), (other, node)].contains(&(from, to));
            let talking = self.pairs.iter().filter(|_| self.is_talking);
            let mut pairs = talking.filter(|pair| is_between(pair.from, pair.to));
            if let Some(pair) = pairs.find(|pair| pair.last.is_none_or(|last| last < moved)) {
                let (from, to, last) = (pair.from, pair.to, pair.last);
                let what =
                    format!("node {node} moved at {moved:.3?}, and node {to} heard node {from} last at {last:.3?}");
                return self.checks.fail("moves-in-time", now, what);
            }
        }
    }

    /// Every peer shows that the node has stopped.
    pub(crate) fn check_stopped(&mut self, node: usize, peers: Nodes, stopped: Duration) {
        // At the end of a run every node is started.
        if self.nodes[node].process.as_ref().is_some_and(|process| !process.is_stopping) {
            return;
        }
        for other in (0..self.nodes.len()).filter(|other| peers.has(*other)) {
            if let Some(state) = self.state_of(node, other).filter(|state| *state != PeerState::Stopped) {
                let what =
                    format!("node {node} stopped at {stopped:.3?}, and node {other} shows it as {}", state.name());
                return self.checks.fail("stops-are-told", self.now, what);
            }
        }
    }

    /// No node that runs is shown as stopped by one that is its peer. One that lost its last peer, because its only endpoint hides that
    /// peer, said with reason that it is gone, for that peer.
    pub(super) fn check_running(&mut self, node: usize, other: usize) {
        let process = self.nodes[node].process.as_ref();
        let has_peer = process.is_some_and(|process| process.device.has_peer(wireguard_key(other)));
        if has_peer && self.state_of(node, other) == Some(PeerState::Stopped) {
            let what = format!("node {node} runs, and node {other} shows it as stopped");
            self.checks.fail("running-is-not-stopped", self.now, what);
        }
    }

    /// The state of a node, as another one shows it.
    fn state_of(&self, node: usize, other: usize) -> Option<PeerState> {
        let process = self.nodes[other].process.as_ref()?;
        let status = process.agent.status(self.nodes[other].clock(process.started, self.now));
        status.peers.iter().find(|peer| peer.token_id == token(node)).map(|peer| peer.state)
    }
}
