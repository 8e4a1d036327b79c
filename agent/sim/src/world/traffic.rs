//! The packets of applications: every pair that talks sends one again and again, and notes what arrives.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{Event, World};
use crate::{
    cluster::{mesh_address, token, wireguard_key},
    packet::{EVERY, Packet},
    scenario::{Fault, Home, PathFault, Profile},
};

/// Numbers of packets that are remembered of each pair.
const REMEMBERED: u64 = 512;
/// Packets wait for a path for so long after the stream that took them was lost, and are on their way for a second at most.
const WAITS: Duration = Duration::from_secs(11);

/// What is known of the packets from one node to another.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pair {
    pub(crate) from: usize,
    pub(crate) to: usize,
    sent: u64,
    /// Numbers that arrived, the latest.
    arrived: BTreeSet<u64>,
    /// Numbers that will have to arrive, with the times at which they were sent.
    pub(crate) expected: VecDeque<(u64, Duration)>,
    /// When the last one did.
    pub(crate) last: Option<Duration>,
    /// When a stream between them was last lost.
    stream_lost: Option<Duration>,
    /// Since when both are peers of each other, as they are now.
    pub(crate) peers_since: Option<Duration>,
    /// Since when direct UDP works, and since when the gateway does.
    pub(crate) direct_since: Option<Duration>,
    pub(crate) gateway_since: Option<Duration>,
    /// What the above is true of: the two processes, their devices, how often streams were reset, and how often NATs forgot.
    generations: [u64; 2],
    devices: [u64; 2],
    stream_resets: u64,
    nat_restarts: u64,
}

impl Pair {
    pub(crate) fn new(from: usize, to: usize) -> Self {
        Self { from, to, ..Self::default() }
    }
}

impl World {
    /// The pair's next packet, as long as applications talk.
    pub(super) fn send_packet(&mut self, number: usize) {
        if !self.is_talking {
            return;
        }
        self.events.add(self.now + EVERY, Event::Packet(number));
        self.look_at_pair(number);
        self.check_reached(number);
        self.check_arrivals(number);
        let is_peaceful = matches!(self.scenario.profile, Profile::Calm | Profile::Long);
        let (now, pair) = (self.now, &mut self.pairs[number]);
        // A device that was made anew has lost sessions in which the other one goes on for a moment.
        if is_peaceful && pair.generations == [1, 1] && pair.peers_since.is_some() {
            pair.expected.push_back((pair.sent, now));
        }
        let packet = Packet { from: pair.from, to: pair.to, number: pair.sent };
        pair.sent += 1;
        let bytes = packet.build(mesh_address(token(packet.from)), mesh_address(token(packet.to)));
        self.send_from_interface(packet.from, &bytes);
    }

    /// An application sends a packet to a mesh address: by the device where there is one, and else it must not leave.
    pub(super) fn send_from_interface(&mut self, node: usize, packet: &[u8]) {
        let now = self.now;
        let has_started = self.nodes[node].has_started;
        let is_guarded = self.nodes[node].guard_route.is_some();
        match &mut self.nodes[node].process {
            Some(process) if process.device.is_present() => {
                process.device.handle_packet(packet, now);
                self.advance(node);
            }
            // The machine's default route would take it.
            _ if has_started && !is_guarded => {
                self.checks.fail("no-clear-text", now, format!("node {node} has no device and no guard"));
            }
            _ => {}
        }
    }

    /// A packet came out of the interface of a node.
    pub(super) fn note_delivered(&mut self, node: usize, bytes: &[u8]) {
        let now = self.now;
        if self.hear_news(node, bytes) {
            return;
        }
        let Some((source, packet)) = Packet::parse(bytes) else {
            return self.checks.fail(
                "delivered-as-sent",
                now,
                format!("node {node} delivers {} bytes of no application", bytes.len()),
            );
        };
        if packet.to != node || source != mesh_address(token(packet.from)) {
            let what = format!("node {node} delivers {packet:?} from {source}");
            return self.checks.fail("delivered-as-sent", now, what);
        }
        let is_peer = self.nodes[node].process.as_ref();
        let is_peer = is_peer.is_some_and(|process| process.device.has_peer(wireguard_key(packet.from)));
        if !is_peer {
            let what = format!("node {node} accepts a packet of node {}, which is no peer of its", packet.from);
            return self.checks.fail("removed-is-not-heard", now, what);
        }
        let Some(pair) = self.pairs.iter_mut().find(|pair| (pair.from, pair.to) == (packet.from, node)) else { return };
        pair.last = Some(now);
        // What went to an endpoint that was never proved waits for another path too, and then comes by both.
        let may_come_twice = pair.stream_lost.is_some_and(|lost| now <= lost + WAITS);
        if !pair.arrived.insert(packet.number) && !may_come_twice {
            let what = format!("node {node} accepts packet {} of node {} twice", packet.number, packet.from);
            self.checks.fail("no-replay", now, what);
        }
        let oldest = packet.number.saturating_sub(REMEMBERED);
        if pair.arrived.first().is_some_and(|first| *first < oldest) {
            pair.arrived.pop_first();
        }
    }

    /// A stream between these nodes is no more.
    pub(super) fn note_stream_lost(&mut self, one: usize, other: usize) {
        let now = self.now;
        let between = |pair: &&mut Pair| [(one, other), (other, one)].contains(&(pair.from, pair.to));
        self.pairs.iter_mut().filter(between).for_each(|pair| pair.stream_lost = Some(now));
    }

    /// Whether a packet of this number, one of the latest, arrived.
    pub(crate) fn has_arrived(&self, pair: usize, number: u64) -> bool {
        self.pairs[pair].arrived.contains(&number)
    }

    /// Notes since when packets of the pair should get through, and by which path.
    pub(crate) fn look_at_pair(&mut self, number: usize) {
        let (from, to) = (self.pairs[number].from, self.pairs[number].to);
        let are_peers = self.has_peer(from, to) && self.has_peer(to, from);
        let is_direct = self.is_direct_possible(from, to);
        let is_gateway = self.is_gateway_possible(from, to);
        let generations = [from, to].map(|node| self.nodes[node].generation);
        let devices = [from, to].map(|node| self.nodes[node].devices());
        let paths_since = self.paths_since(from, to).zip(self.paths_since(to, from)).map(|(one, other)| one.max(other));
        let stream_resets = self.nodes[from].stream_resets + self.nodes[to].stream_resets;
        let (now, nat_restarts) = (self.now, self.nat_restarts);
        let pair = &mut self.pairs[number];
        if pair.generations != generations {
            (pair.peers_since, pair.direct_since, pair.gateway_since) = (None, None, None);
        }
        // Another device is given the streams there are.
        if pair.devices != devices {
            pair.direct_since = None;
        }
        if pair.stream_resets != stream_resets {
            pair.gateway_since = None;
        }
        if pair.nat_restarts != nat_restarts {
            pair.direct_since = None;
        }
        (pair.generations, pair.devices) = (generations, devices);
        (pair.stream_resets, pair.nat_restarts) = (stream_resets, nat_restarts);
        let since = |is: bool, known: Option<Duration>| is.then(|| known.unwrap_or(now));
        pair.peers_since = since(are_peers, pair.peers_since);
        pair.direct_since = since(is_direct, pair.direct_since);
        // With paths that were begun anew, streams are, too.
        pair.gateway_since = since(is_gateway, pair.gateway_since).zip(paths_since).map(|(one, other)| one.max(other));
    }

    /// Since when the paths of a node know another, if they do.
    pub(crate) fn paths_since(&self, node: usize, other: usize) -> Option<Duration> {
        self.nodes[node].paths_since.get(&token(other)).copied()
    }

    fn has_peer(&self, node: usize, other: usize) -> bool {
        let process = self.nodes[node].process.as_ref().filter(|process| !process.is_stopping);
        process.is_some_and(|process| process.device.has_peer(wireguard_key(other)))
    }

    /// Datagrams get through both ways, and one of the two knows where the other is.
    fn is_direct_possible(&self, one: usize, other: usize) -> bool {
        let plans = &self.scenario.world.nodes;
        let has_open = [one, other].iter().any(|node| plans[*node].home == Home::Open);
        let hinders = |fault: &Fault| match fault {
            Fault::NodeWithoutUdp(node, _) => [one, other].contains(node),
            Fault::Path(first, second, fault, _) => {
                let is_theirs = [(one, other), (other, one)].contains(&(*first, *second));
                is_theirs && !matches!(fault, PathFault::Duplicate(_) | PathFault::Reorder(_) | PathFault::Delay(_))
            }
            _ => false,
        };
        has_open && !self.active.iter().any(|(_, fault)| hinders(fault))
    }

    fn is_gateway_possible(&self, one: usize, other: usize) -> bool {
        let plans = &self.scenario.world.nodes;
        let is_possible = |node: usize| plans[node].has_place && !self.gateway.is_impaired(node);
        is_possible(one) && is_possible(other)
    }
}
