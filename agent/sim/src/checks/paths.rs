//! How the paths are: found where they can be, left alone where they work, and not dialed without end.

use std::time::Duration;

use mesh_core::path::{PathKind, rank};

use crate::{
    cluster::{token, wireguard_key},
    gateway::ConnectionId,
    scenario::{Home, NatKind, Profile},
    world::World,
};

/// Dials of one node for one peer in this time, at most.
const DIALS: usize = 14;
const DIALS_IN: Duration = Duration::from_secs(5);
/// Paths to a peer that is not talked to are probed every 25 s and a tenth: when a peer answers that did not before, with a short probe
/// first, and with one of full size the next time.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// An address that did not answer is tried again when the peer's next probe comes from there, after 25 s and a tenth, which takes
/// 2 s, and may be lost once.
const TRIED_AGAIN_WITHIN: Duration = Duration::from_secs(40);
/// What a machine of a mesh this small takes at most when it is written out.
const MOST_DEBUG: usize = 400_000;

impl World {
    /// A node dials another.
    pub(crate) fn note_dial(&mut self, node: usize, dialed: Option<usize>) {
        let now = self.now;
        let dials = &mut self.nodes[node].dials;
        dials.push_back((now, dialed));
        while dials.front().is_some_and(|(at, _)| *at + DIALS_IN < now) {
            dials.pop_front();
        }
        let dials = dials.iter().filter(|(_, other)| *other == dialed).count();
        if dials > DIALS {
            let what = format!("node {node} dials {dialed:?} {dials} times in {DIALS_IN:?}");
            self.checks.fail("dials-back-off", now, what);
        }
    }

    /// The gateway ends a connection for its age: where nothing hindered it, another had taken its place before.
    pub(crate) fn check_lifetime(&mut self, id: ConnectionId) {
        let Some(connection) = self.gateway.connections.get(&id) else { return };
        let is_excused = self.path_event_at.is_some_and(|at| at >= connection.since);
        let Some(listener) = connection.listener.filter(|_| !is_excused) else { return };
        for end in [connection.dialer, listener] {
            let process =
                self.nodes[end.node].process.as_ref().filter(|_| self.nodes[end.node].generation == end.generation);
            if let Some(peer) = process.and_then(|process| process.device.current_peer(end.stream)) {
                let what = format!("node {} still sends to {peer} by a stream that the gateway ends", end.node);
                return self.checks.fail("streams-replaced", self.now, what);
            }
        }
    }

    /// What is looked at when everything is over.
    pub(crate) fn check_end(&mut self) {
        self.check_switches();
        for node in 0..self.nodes.len() {
            self.check_memory(node);
            for other in 0..self.nodes.len() {
                self.check_paths(node, other);
                self.check_running(node, other);
            }
        }
    }

    fn check_memory(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let (agent, paths) = (format!("{:?}", process.agent).len(), format!("{:?}", process.paths).len());
        if agent.max(paths) > MOST_DEBUG {
            let what = format!("node {node}: the agent is {agent} bytes when written out, the paths are {paths}");
            self.checks.fail("bounded-memory", self.now, what);
        }
    }

    /// Every path that can be had works.
    fn check_paths(&mut self, node: usize, other: usize) {
        let are_peers = |world: &Self, one: usize, two: usize| {
            let process = world.nodes[one].process.as_ref();
            process.is_some_and(|process| process.device.has_peer(wireguard_key(two)))
        };
        let known = self.paths_since(node, other).max(self.paths_since(other, node));
        let is_new = known.is_none_or(|known| known + FOUND_WITHIN > self.now);
        let is_talked_to = self.pairs.iter().any(|pair| (pair.from, pair.to) == (node, other));
        let is_settled = is_talked_to || !is_new;
        if node == other || !are_peers(self, node, other) || !are_peers(self, other, node) || !is_settled {
            return;
        }
        let seen = self.nodes[node].process.as_ref().and_then(|process| process.seen.as_ref());
        let Some(paths) = seen.and_then(|seen| seen.peers.get(&token(other))) else { return };
        let is_lossy = self.scenario.profile == Profile::Chaos && self.scenario.world.loss > 0;
        for (kind, is_possible) in
            [(PathKind::Direct, self.can_be_direct(node, other)), (PathKind::Gateway, self.scenario.world.has_gateway)]
        {
            let path = &paths.report.paths[rank(kind)];
            let is_late = kind == PathKind::Direct && (self.cannot_find(node, other) || self.cannot_find(other, node));
            if is_possible && !is_lossy && !is_late && !path.usable {
                let what = format!("node {node} has no {kind:?} path to node {other}: {path:?}, {:?}", paths.direct);
                self.checks.fail("paths-found", self.now, what);
            }
        }
    }

    /// Whether a node may send to where the other one is not: it believes no address that has not answered its own initiation, and
    /// those of a device that was made while the clock is behind are taken for replays (paper, section 5.1).
    fn cannot_find(&self, node: usize, other: usize) -> bool {
        let is_registered = self.scenario.world.nodes[other].home == Home::Open && !self.network.has_moved(other);
        let refused = self.nodes[node].initiations_refused().filter(|_| !is_registered);
        refused.is_some_and(|refused| self.now < refused.end + TRIED_AGAIN_WITHIN)
    }

    /// Whether direct UDP can be had at all: one of the two is in the open, or their NATs can be opened from inside, where both know
    /// how they look from outside and have another way to tell each other.
    fn can_be_direct(&self, one: usize, two: usize) -> bool {
        let plan = &self.scenario.world;
        match (plan.nodes[one].home, plan.nodes[two].home) {
            (Home::Open, _) | (_, Home::Open) => true,
            (Home::Behind(one), Home::Behind(two)) if one == two => plan.has_gateway,
            (Home::Behind(one), Home::Behind(two)) => {
                let is_symmetric = |nat: usize| plan.nats[nat].kind == NatKind::Symmetric;
                plan.has_gateway && plan.has_stun && !is_symmetric(one) && !is_symmetric(two)
            }
        }
    }
}
