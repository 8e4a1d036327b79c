//! The world of a run: nodes, where they stand, the endpoints they read, and the network between them.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::Profile;
use crate::{cluster::LISTEN_PORT, rng::Rng};

/// Pairs that talk at most: what a run takes grows with their number.
const PAIRS: usize = 8;

/// Which outside port a NAT gives, and what it lets in (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NatKind {
    /// One port whatever the destination, and everything comes in.
    FullCone,
    /// One port whatever the destination; what a host was sent to may come in.
    AddressRestricted,
    /// One port whatever the destination; what an address and port was sent to may come in.
    PortRestricted,
    /// Another port for each destination.
    Symmetric,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct NatPlan {
    pub(crate) kind: NatKind,
    /// Hosts behind it reach each other by their outside addresses.
    pub(crate) hairpins: bool,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// At a public address.
    Open,
    /// Behind the NAT of this number.
    Behind(usize),
}

impl Home {
    /// The address of the node of this number at its own host.
    pub(crate) fn address(self, node: usize) -> SocketAddr {
        self.address_after(0, node)
    }

    /// The same after its host has moved so often.
    pub(crate) fn address_after(self, moves: u8, node: usize) -> SocketAddr {
        let byte = |number: usize| u8::try_from(number).unwrap() + 1;
        let last = byte(node) + 10 * (moves % 20);
        match self {
            Self::Open => SocketAddr::from(([192, 0, 2, last], LISTEN_PORT)),
            Self::Behind(nat) => SocketAddr::from(([192, 168, byte(nat), last], LISTEN_PORT)),
        }
    }
}

/// The outside address of the NAT of this number.
pub(crate) fn nat_address(nat: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, u8::try_from(nat).unwrap() + 1)
}

#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) home: Home,
    /// It has a place behind the gateway.
    pub(crate) has_place: bool,
    /// When its process starts.
    pub(crate) starts: Duration,
    /// When an operator binds a token to it; those of zero are bound in the first block.
    pub(crate) bound: Duration,
    pub(crate) confirmations: u64,
    /// Behind a NAT, it registers an outside address all the same, at which nothing is let in.
    pub(crate) registers_nat: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct WorldPlan {
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) nats: Vec<NatPlan>,
    /// RPC endpoints, and how many of them must agree.
    pub(crate) endpoints: usize,
    pub(crate) need: usize,
    /// From one block to the next.
    pub(crate) block_time: Duration,
    /// Blocks on top that make one final.
    pub(crate) finality: Option<u64>,
    pub(crate) has_gateway: bool,
    pub(crate) has_stun: bool,
    /// Age at which agents replace their streams.
    pub(crate) redial_after: Duration,
    /// One way between two hosts.
    pub(crate) delay: (Duration, Duration),
    /// Of a thousand datagrams.
    pub(crate) loss: u64,
    /// The nodes whose applications send to each other, and in which direction.
    pub(crate) pairs: Vec<(usize, usize)>,
}

impl WorldPlan {
    pub(super) fn draw(profile: Profile, rng: &mut Rng) -> Self {
        let many = match profile {
            Profile::Calm | Profile::Sources | Profile::Chaos => rng.pick(&[2, 3, 3, 4, 4, 5, 6]),
            Profile::Failover | Profile::Long => 2,
            Profile::Nat | Profile::Gateway | Profile::Hosts => rng.pick(&[2, 2, 3, 3, 4]),
            Profile::OldState => rng.pick(&[2, 3, 3, 4]),
            Profile::Blind => rng.pick(&[5, 5, 6, 7]),
        };
        let (endpoints, need) = match profile {
            Profile::Failover
            | Profile::Nat
            | Profile::Gateway
            | Profile::Long
            | Profile::Hosts
            | Profile::OldState => (1, 1),
            Profile::Blind => (3, 2),
            Profile::Calm | Profile::Sources | Profile::Chaos => rng.pick(&[(1, 1), (2, 2), (3, 2), (3, 2), (3, 2)]),
        };
        let nats = match profile {
            Profile::Nat => rng.pick(&[1, 2, 2, 2]),
            Profile::Chaos => rng.pick(&[0, 1, 2]),
            Profile::Calm
            | Profile::Sources
            | Profile::Failover
            | Profile::Gateway
            | Profile::Long
            | Profile::Hosts
            | Profile::Blind
            | Profile::OldState => 0,
        };
        let kinds = [
            NatKind::FullCone,
            NatKind::AddressRestricted,
            NatKind::PortRestricted,
            NatKind::PortRestricted,
            NatKind::Symmetric,
        ];
        let nats: Vec<NatPlan> =
            (0..nats).map(|_| NatPlan { kind: rng.pick(&kinds), hairpins: rng.chance(400) }).collect();
        let has_gateway = match profile {
            Profile::Calm | Profile::Sources | Profile::OldState | Profile::Blind | Profile::Long => rng.chance(300),
            Profile::Failover | Profile::Nat | Profile::Gateway => true,
            Profile::Hosts => rng.chance(500),
            Profile::Chaos => rng.chance(800),
        };
        let block_time = rng.pick(&[250, 500, 1000, 1000, 2000, 2000, 4000, 12_000]);
        let redial_after = if profile == Profile::Gateway { rng.millis(8_000, 20_000) } else { hours(4) };
        let mut plan = Self {
            nodes: Vec::new(),
            nats,
            endpoints,
            need,
            block_time: Duration::from_millis(block_time),
            finality: rng.pick(&[None, Some(2), Some(5), Some(8)]),
            has_gateway,
            has_stun: rng.chance(800),
            redial_after,
            delay: (rng.millis(1, 10), rng.millis(10, 80)),
            loss: if matches!(profile, Profile::Chaos) { rng.pick(&[0, 0, 5, 20]) } else { 0 },
            pairs: Vec::new(),
        };
        plan.nodes = (0..many).map(|number| plan.node(number, profile, rng)).collect();
        let mut pairs: Vec<(usize, usize)> =
            (0..many).flat_map(|from| (0..many).filter(move |to| *to != from).map(move |to| (from, to))).collect();
        if profile == Profile::Hosts {
            // Some are idle, and of some only one talks.
            let (sends, hears) = (rng.chance(500), rng.chance(500));
            pairs.retain(|(from, to)| *from == 0 && sends || *to == 0 && hears);
        }
        while pairs.len() > PAIRS {
            pairs.remove(rng.index(pairs.len()));
        }
        plan.pairs = pairs;
        plan
    }

    /// Members from the beginning, which say nothing to each other, in a world without faults.
    pub(super) fn calm(nodes: usize) -> Self {
        let node = NodePlan {
            home: Home::Open,
            has_place: false,
            starts: Duration::ZERO,
            bound: Duration::ZERO,
            confirmations: 0,
            registers_nat: false,
        };
        Self {
            nodes: vec![node; nodes],
            nats: Vec::new(),
            endpoints: 1,
            need: 1,
            block_time: Duration::from_secs(1),
            finality: Some(5),
            has_gateway: false,
            has_stun: false,
            redial_after: hours(4),
            delay: (Duration::from_millis(5), Duration::from_millis(20)),
            loss: 0,
            pairs: Vec::new(),
        }
    }

    fn node(&self, number: usize, profile: Profile, rng: &mut Rng) -> NodePlan {
        let behind = |rng: &mut Rng| Home::Behind(rng.index(self.nats.len()));
        let home = match profile {
            Profile::Nat if number > 1 && rng.chance(300) => Home::Open,
            Profile::Nat => behind(rng),
            Profile::Chaos if !self.nats.is_empty() && rng.chance(500) => behind(rng),
            _ => Home::Open,
        };
        let joins_late = number >= 2 && !matches!(profile, Profile::Hosts | Profile::Blind) && rng.chance(400);
        let starts = if joins_late { rng.millis(4_000, 9_000) } else { rng.millis(0, 800) };
        let bound = if joins_late { starts + rng.millis(0, 1_500) } else { Duration::ZERO };
        let confirmations = if rng.chance(100) { 1 } else { 0 };
        let registers_nat = matches!(home, Home::Behind(_)) && rng.chance(300);
        NodePlan { home, has_place: self.has_gateway, starts, bound, confirmations, registers_nat }
    }
}

const fn hours(number: u64) -> Duration {
    Duration::from_secs(number * 3600)
}

impl fmt::Display for WorldPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, nats, endpoints, need, block_time, finality, has_gateway, has_stun, .. } = self;
        let Self { redial_after, delay, loss, pairs, .. } = self;
        write!(f, "{need} of {endpoints} endpoints, a block every {block_time:?}, final after {finality:?}, ")?;
        write!(f, "gateway {has_gateway}, STUN {has_stun}, streams replaced after {redial_after:.1?}, ")?;
        write!(f, "delay {:?} to {:?}, loss {loss}/1000, talk {pairs:?}", delay.0, delay.1)?;
        for (number, nat) in nats.iter().enumerate() {
            write!(f, "\n  NAT {number}: {:?}, hairpins {}", nat.kind, nat.hairpins)?;
        }
        for (number, node) in nodes.iter().enumerate() {
            let NodePlan { home, has_place, starts, bound, confirmations, registers_nat } = node;
            write!(
                f,
                "\n  node {number}: {home:?}, place {has_place}, starts at {starts:.3?}, bound at {bound:.3?}, "
            )?;
            write!(f, "{confirmations} confirmations, registers its NAT {registers_nat}")?;
        }
        Ok(())
    }
}
