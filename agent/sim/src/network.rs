//! The network that datagrams of UDP cross: hosts, NATs, the links between them, and a STUN server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    nat::Nat,
    rng::Rng,
    scenario::{Fault, Home, PathFault, WorldPlan, nat_address},
};

/// The STUN server.
pub(crate) const STUN_SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 3478);
/// Who sends what was recorded on the way.
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66)), 666);
/// From being recorded to coming again.
const RECORDED_FOR: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(8));
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// No link carries more.
const MTU: usize = 1500;

/// Where a datagram arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Node(usize),
    Stun,
}

/// A datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at: Duration,
    pub(crate) to: Destination,
    /// Where it seems to come from.
    pub(crate) from: SocketAddr,
    /// A bit of it that is another than the one that was sent.
    pub(crate) altered: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Network {
    homes: Vec<Home>,
    /// How often each host has moved to another address.
    moved: Vec<u8>,
    nats: Vec<Nat>,
    delay: (Duration, Duration),
    loss: u64,
    /// One for each direction of each pair.
    links: Vec<Rng>,
    /// Faults that have begun, by their numbers in the history.
    faults: Vec<(usize, Fault)>,
}

impl Network {
    pub(crate) fn new(plan: &WorldPlan, seed: u64) -> Self {
        let nodes = plan.nodes.len() as u64 + 1;
        Self {
            homes: plan.nodes.iter().map(|node| node.home).collect(),
            moved: vec![0; plan.nodes.len()],
            nats: plan.nats.iter().enumerate().map(|(number, nat)| Nat::new(*nat, nat_address(number))).collect(),
            delay: plan.delay,
            loss: plan.loss,
            links: (0..nodes * nodes).map(|link| Rng::new(seed, 1000 + link)).collect(),
            faults: Vec::new(),
        }
    }

    /// The address of a node's host.
    pub(crate) fn local(&self, node: usize) -> SocketAddr {
        self.homes[node].address_after(self.moved[node], node)
    }

    pub(crate) fn has_moved(&self, node: usize) -> bool {
        self.moved[node] > 0
    }

    /// It has lost its address, and has no other yet.
    pub(crate) fn is_without_address(&self, node: usize) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::AddressChanges(of, _) if *of == node))
    }

    pub(crate) fn begin(&mut self, number: usize, fault: Fault) {
        if let Fault::NatRestarts(nat) = fault {
            self.nats[nat].restart();
        } else {
            self.faults.push((number, fault));
        }
    }

    pub(crate) fn end(&mut self, number: usize) {
        for (_, fault) in self.faults.extract_if(.., |(known, _)| *known == number) {
            if let Fault::AddressChanges(node, _) = fault {
                self.moved[node] += 1;
            }
        }
    }

    /// Sends a datagram: where and when it arrives, and as what; twice perhaps, or never. What is lost has still been through the own
    /// NAT.
    pub(crate) fn send(&mut self, node: usize, to: SocketAddr, len: usize, now: Duration) -> [Option<Arrival>; 2] {
        let Some((to, from)) = self.route(node, to, now) else { return [None; 2] };
        let other = match to {
            Destination::Node(other) => other,
            Destination::Stun => self.homes.len(),
        };
        let link = node * (self.homes.len() + 1) + other;
        let mut late = Duration::ZERO;
        let rng = &mut self.links[link];
        let mut is_lost = len + HEADERS > MTU || rng.chance(self.loss);
        let (mut is_twice, mut is_recorded, mut altered) = (false, false, None);
        for (_, fault) in &self.faults {
            match *fault {
                Fault::NodeWithoutUdp(of, _) | Fault::AddressChanges(of, _) => is_lost |= of == node || of == other,
                Fault::Path(one, two, fault, _) if (one, two) == (node, other) || (two, one) == (node, other) => {
                    match fault {
                        PathFault::Cut => is_lost = true,
                        PathFault::OneWay => is_lost |= one == node,
                        PathFault::Loss(per_mille) => is_lost |= rng.chance(per_mille),
                        PathFault::Narrow(bytes) => is_lost |= len > bytes,
                        PathFault::Delay(by) => late += by,
                        PathFault::Reorder(by) => late += rng.between(Duration::ZERO, by),
                        PathFault::Duplicate(per_mille) => is_twice |= rng.chance(per_mille),
                        PathFault::Alter(per_mille) => altered = rng.chance(per_mille).then(|| rng.index(len * 8)),
                        PathFault::Record(per_mille) => is_recorded |= rng.chance(per_mille),
                    }
                }
                _ => {}
            }
        }
        if is_lost || other == node {
            return [None; 2];
        }
        let at = now + late + rng.between(self.delay.0, self.delay.0 + (self.delay.1 - self.delay.0) / 4);
        let again = at + rng.between(Duration::ZERO, self.delay.1);
        let arrival = Arrival { at, to, from, altered };
        if is_recorded {
            let later = at + rng.between(RECORDED_FOR.0, RECORDED_FOR.1);
            let recorded = Arrival { at: later, from: STRANGER, ..arrival };
            return [rng.chance(500).then_some(arrival), Some(recorded)];
        }
        [Some(arrival), is_twice.then_some(Arrival { at: again, ..arrival })]
    }

    /// Where a datagram leads that a node sends to an address, and where it seems to come from there.
    fn route(&mut self, node: usize, to: SocketAddr, now: Duration) -> Option<(Destination, SocketAddr)> {
        let (local, nat) = (self.local(node), self.nat_of(node));
        // Hosts behind one NAT are on one link.
        let neighbour = (0..self.homes.len()).find(|other| self.local(*other) == to);
        if let Some(neighbour) = neighbour.filter(|other| nat.is_some() && self.nat_of(*other) == nat) {
            return Some((Destination::Node(neighbour), local));
        }
        let from = nat.map_or(local, |nat| self.nats[nat].outbound(local, to, now));
        if to == STUN_SERVER {
            return Some((Destination::Stun, from));
        }
        if let Some(reached) = self.nats.iter().position(|nat| to.ip() == nat.ip) {
            let inside = self.nats[reached].inbound(from, to.port(), now)?;
            let passes = nat != Some(reached) || self.nats[reached].hairpins;
            let found = (0..self.homes.len())
                .find(|other| self.nat_of(*other) == Some(reached) && self.local(*other) == inside)?;
            return passes.then_some((Destination::Node(found), from));
        }
        let open = neighbour.filter(|other| self.homes[*other] == Home::Open)?;
        Some((Destination::Node(open), from))
    }

    /// The STUN server's answer comes back to where its request came from, through the NAT that it went through.
    pub(crate) fn answer(&mut self, node: usize, from: SocketAddr, now: Duration) -> Option<Duration> {
        let passes = match self.nat_of(node) {
            Some(nat) => self.nats[nat].inbound(STUN_SERVER, from.port(), now).is_some(),
            None => true,
        };
        let is_cut = self.faults.iter().any(|(_, fault)| matches!(fault, Fault::NodeWithoutUdp(of, _) if *of == node));
        (passes && !is_cut).then(|| now + self.delay.0)
    }

    fn nat_of(&self, node: usize) -> Option<usize> {
        match self.homes[node] {
            Home::Open => None,
            Home::Behind(nat) => Some(nat),
        }
    }
}
