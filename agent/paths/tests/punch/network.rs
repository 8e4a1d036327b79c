//! Two nodes, their NATs, and a gateway path between them, in virtual time. Both run the real machine; devices are simplified to
//! what a handshake does to NATs: an initiation that arrives is answered to where it came from, and an answer that arrives is a
//! path, which the other side believes when it is used.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use mesh_paths::{punch::Punch, rng::Rng};

use crate::{at, mesh, nat::Nat};

const PROBES: Duration = Duration::from_millis(250);
const STUN_SERVER: &str = "203.0.113.1:3478";

/// What stands where, and how bad the paths between are.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) nats: Vec<Nat>,
    /// Each node's NAT; a node without one is reached at its local address.
    pub(crate) behind: [Option<usize>; 2],
    pub(crate) locals: [SocketAddr; 2],
    /// Whether nodes behind the same NAT reach each other by their local addresses.
    pub(crate) one_link: bool,
    /// Whether each knows its outside address.
    pub(crate) asks_stun: [bool; 2],
    /// One way, by UDP and by the gateway.
    pub(crate) delays: [Duration; 2],
    /// Of a thousand, by UDP and by the gateway.
    pub(crate) loss: [u64; 2],
    pub(crate) seed: u64,
}

impl World {
    /// Where a datagram arrives that a node sends to an address, and where it then seems to come from.
    fn carry(&mut self, side: usize, to: SocketAddr, now: Duration) -> Option<(usize, SocketAddr)> {
        let (local, nat) = (self.locals[side], self.behind[side]);
        let together = nat.is_some() && nat == self.behind[1 - side];
        if together && self.one_link && to == self.locals[1 - side] {
            return Some((1 - side, local));
        }
        let from = nat.map_or(local, |nat| self.nats[nat].outbound(local, to, now));
        if let Some(reached) = self.nats.iter().position(|nat| to.ip() == nat.ip) {
            let inside = self.nats[reached].inbound(from, to.port(), now)?;
            let passes = nat != Some(reached) || self.nats[reached].hairpins;
            let node = (0..2).find(|&node| self.behind[node] == Some(reached) && self.locals[node] == inside)?;
            return passes.then_some((node, from));
        }
        (self.behind[1 - side].is_none() && to == self.locals[1 - side]).then_some((1 - side, from))
    }

    /// What a node can say of itself, best first.
    pub(crate) fn candidates(&mut self, side: usize, now: Duration) -> Vec<SocketAddr> {
        let local = self.locals[side];
        let nat = self.behind[side].filter(|_| self.asks_stun[side]);
        let outside = nat.map(|nat| self.nats[nat].outbound(local, at(STUN_SERVER), now));
        outside.into_iter().chain([local]).collect()
    }

    /// Whether a handshake could succeed at all, if both sent to everything that the other says of itself and nothing was lost.
    pub(crate) fn possible(&self) -> bool {
        let mut world = self.clone();
        let now = Duration::ZERO;
        let candidates = [0, 1].map(|side| world.candidates(side, now));
        let mut found = false;
        for _ in 0..2 {
            for side in 0..2 {
                for &to in &candidates[1 - side] {
                    let Some((arrived, from)) = world.carry(side, to, now).filter(|(arrived, _)| *arrived != side)
                    else {
                        continue;
                    };
                    found |= world.carry(arrived, from, now).is_some_and(|(back, _)| back == side);
                }
            }
        }
        found
    }
}

#[derive(Debug)]
enum Event {
    Message(usize, Vec<u8>),
    /// For a node, from an address.
    Initiation(usize, SocketAddr),
    Answer(usize, SocketAddr),
    Probe(usize, SocketAddr),
    /// A node that has a direct path uses it.
    Use(usize),
}

pub(crate) struct Node {
    pub(crate) punch: Punch,
    /// Where the peer is reached, and since when.
    pub(crate) direct: Option<(SocketAddr, Duration)>,
    pub(crate) tries: Vec<(Duration, SocketAddr)>,
    pub(crate) messages: Vec<Duration>,
    /// Where the peer says that it sees this node.
    pub(crate) seen_by_peer: Option<SocketAddr>,
    pub(crate) wakes: usize,
}

impl Node {
    /// What it did so far is not counted.
    pub(crate) fn forget(&mut self) {
        self.tries.clear();
        self.messages.clear();
        self.wakes = 0;
    }
}

pub(crate) struct Network {
    pub(crate) world: World,
    pub(crate) nodes: [Node; 2],
    pub(crate) now: Duration,
    /// Messages that the gateway loses before it carries any, from each side.
    pub(crate) swallows: [usize; 2],
    events: BTreeMap<(Duration, u64), Event>,
    dice: Rng,
}

impl Network {
    pub(crate) fn new(world: World) -> Self {
        let node = |side: u64| Node {
            punch: Punch::new(mesh(), world.seed.wrapping_mul(2 + side), Duration::ZERO),
            direct: None,
            tries: Vec::new(),
            messages: Vec::new(),
            seen_by_peer: None,
            wakes: 0,
        };
        let dice = Rng::new(world.seed);
        Self { nodes: [node(0), node(1)], world, now: Duration::ZERO, swallows: [0; 2], events: BTreeMap::new(), dice }
    }

    /// A node learns what it can say of itself.
    pub(crate) fn learn(&mut self, side: usize) {
        let candidates = self.world.candidates(side, self.now);
        self.nodes[side].punch.set_own(&candidates);
        self.nodes[side].punch.handle_timeout(self.now);
        self.drain(side);
    }

    pub(crate) fn gateway(&mut self, side: usize, is_up: bool) {
        self.nodes[side].punch.gateway(is_up, self.now);
        self.drain(side);
    }

    pub(crate) fn fail_direct(&mut self) {
        for side in 0..2 {
            self.nodes[side].direct = None;
            self.nodes[side].punch.direct(false, self.now);
            self.drain(side);
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = |side: usize| self.nodes[side].punch.poll_timeout().map(|due| (due.max(self.now), side));
            let wake = [wake(0), wake(1)].into_iter().flatten().min();
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let next = [wake.map(|(due, _)| due), event].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            if event == Some(next) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(event);
            } else if let Some((_, side)) = wake {
                self.nodes[side].wakes += 1;
                self.nodes[side].punch.handle_timeout(next);
                self.drain(side);
                let again = self.nodes[side].punch.poll_timeout();
                assert!(again.is_none_or(|again| again > next), "woken at {next:?}, it wants it again at {again:?}");
            }
        }
        self.now = end;
    }

    /// The most attempts of a node within `window`.
    pub(crate) fn most_tries(&self, side: usize, window: Duration) -> usize {
        let tries = &self.nodes[side].tries;
        let within = |from: usize| tries[from..].iter().take_while(|(at, _)| *at < tries[from].0 + window).count();
        (0..tries.len()).map(within).max().unwrap_or_default()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message(side, payload) => {
                // An answer may be late, or the second one to a repeated call.
                let _ = self.nodes[side].punch.handle_message(&payload, self.now);
                self.drain(side);
            }
            Event::Initiation(side, from) => self.send(side, from, Event::Answer),
            Event::Answer(side, from) => {
                self.believe(side, from);
                self.schedule(Duration::ZERO, Event::Use(side));
            }
            Event::Probe(side, from) => self.believe(side, from),
            Event::Use(side) => {
                if let Some((address, _)) = self.nodes[side].direct.filter(|_| self.nodes[1 - side].direct.is_none()) {
                    self.send(side, address, Event::Probe);
                    self.schedule(PROBES, Event::Use(side));
                }
            }
        }
    }

    fn believe(&mut self, side: usize, from: SocketAddr) {
        let since = self.nodes[side].direct.map_or(self.now, |(_, since)| since);
        self.nodes[side].direct = Some((from, since));
        self.nodes[side].punch.direct(true, self.now);
        self.nodes[side].punch.set_seen(Some(from));
        self.nodes[side].punch.handle_timeout(self.now);
        self.drain(side);
    }

    fn drain(&mut self, side: usize) {
        while let Some(payload) = self.nodes[side].punch.poll_transmit() {
            self.nodes[side].messages.push(self.now);
            if self.swallows[side] > 0 {
                self.swallows[side] -= 1;
            } else if !self.is_lost(1) {
                self.schedule(self.world.delays[1], Event::Message(1 - side, payload));
            }
        }
        while let Some(address) = self.nodes[side].punch.poll_try() {
            self.nodes[side].tries.push((self.now, address));
            self.send(side, address, Event::Initiation);
        }
        if let Some(seen) = self.nodes[side].punch.poll_seen_by_peer() {
            self.nodes[side].seen_by_peer = Some(seen);
        }
    }

    fn send(&mut self, side: usize, to: SocketAddr, event: fn(usize, SocketAddr) -> Event) {
        // What is lost has still been through the own NAT.
        let Some((arrived, from)) = self.world.carry(side, to, self.now) else { return };
        if !self.is_lost(0) && arrived != side {
            self.schedule(self.world.delays[0], event(arrived, from));
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        let number = self.roll();
        self.events.insert((self.now + after, number), event);
    }

    fn is_lost(&mut self, path: usize) -> bool {
        self.roll() % 1000 < self.world.loss[path]
    }

    fn roll(&mut self) -> u64 {
        self.dice.next_u64()
    }
}
