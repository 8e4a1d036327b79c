//! What happens in a run, drawn from a seed. Every kind of fault is in every run; which nodes, how long and in what order is drawn.

use std::{fmt, time::Duration};

use netns_tests::{DirectFault, Rng};

/// Of a run, RPC outages included.
pub(crate) const FAULTS: usize = 30;
/// Joins in a run, and as many leaves.
pub(crate) const JOINS: usize = 20;
/// The longest that paths may be broken.
pub(crate) const LONGEST: Duration = Duration::from_millis(2500);
const SHORTEST: Duration = Duration::from_millis(500);
/// Until the agent's supervisor has noticed that it ended, and starts it again.
const RESTART: Duration = Duration::from_millis(500);
/// After everything is whole again, and at most so much longer.
const PAUSE: Duration = Duration::from_millis(1500);
/// Faults that befall a run while the contract cannot be read: as many as fit into a minute.
const IN_AN_OUTAGE: usize = 7;

/// What befalls paths, agents and the set of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The network for direct UDP.
    Direct(DirectFault),
    /// A node has no gateway and no RPC endpoint: direct UDP is left to it.
    Uplink { of: usize },
    /// A node has neither path, and no RPC endpoint.
    CutOff { of: usize },
    /// The gateway is killed and started again.
    GatewayKilled,
    /// Its machine is gone, without a word, and boots.
    GatewayCrashed,
    /// A node's agent is killed and started again.
    AgentKilled { of: usize },
    /// Nodes that have no database join and leave.
    Members { joins: usize },
}

/// One fault of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) lasts: Duration,
    /// Quiet time after it.
    pub(crate) pause: Duration,
}

/// For a minute the contract cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) nodes: Vec<usize>,
    /// Connections are refused; otherwise nothing answers.
    pub(crate) refused: bool,
}

/// Faults one after the other; those after an outage's beginning, which last as long as it does or shorter.
#[derive(Debug)]
pub(crate) struct Chapter {
    pub(crate) outage: Option<Outage>,
    pub(crate) faults: Vec<Fault>,
}

/// A whole run, for this many nodes with databases. Each is cut off once, whatever its part is, and the agent of each killed.
pub(crate) fn draw(random: &mut Rng, nodes: usize) -> Vec<Chapter> {
    let mut kinds: Vec<Kind> = direct_faults(random, nodes).map(Kind::Direct).into();
    for _ in 0..3 {
        let again = direct_faults(random, nodes);
        kinds.push(Kind::Direct(again[random.below(again.len())]));
    }
    kinds.extend([Kind::GatewayKilled, Kind::GatewayCrashed, Kind::Uplink { of: 1 + random.below(nodes) }]);
    kinds.extend((1..=nodes).flat_map(|of| [Kind::CutOff { of }, Kind::AgentKilled { of }]));
    kinds.extend([6, 6, 8].map(|joins| Kind::Members { joins }));
    shuffle(random, &mut kinds);

    let one = |random: &mut Rng| vec![1 + random.below(nodes)];
    let mut outages = vec![
        Outage { nodes: one(random), refused: false },
        Outage { nodes: one(random), refused: true },
        Outage { nodes: (1..=nodes).collect(), refused: random.below(2) == 0 },
    ];
    shuffle(random, &mut outages);
    let mut chapters = Vec::new();
    for outage in outages {
        let before = random.below(3);
        chapters.push(Chapter { outage: None, faults: take(random, &mut kinds, before, |_| true) });
        // No node would hear of new members.
        let hears = |kind: Kind| outage.nodes.len() < nodes || !matches!(kind, Kind::Members { .. });
        let faults = take(random, &mut kinds, IN_AN_OUTAGE, hears);
        chapters.push(Chapter { outage: Some(outage), faults });
    }
    chapters.push(Chapter { outage: None, faults: take(random, &mut kinds, usize::MAX, |_| true) });
    chapters.retain(|chapter| chapter.outage.is_some() || !chapter.faults.is_empty());
    chapters
}

fn direct_faults(random: &mut Rng, nodes: usize) -> [DirectFault; 6] {
    [
        DirectFault::Silence,
        DirectFault::OneWay { to: 1 + random.below(nodes) },
        DirectFault::Bigger { than: 1000 },
        DirectFault::Loss { percent: 60 },
        DirectFault::Rebind,
        DirectFault::LinkDown { of: 1 + random.below(nodes) },
    ]
}

/// The first of them that fit, with what else there is to draw.
fn take(random: &mut Rng, kinds: &mut Vec<Kind>, count: usize, fits: impl Fn(Kind) -> bool) -> Vec<Fault> {
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for kind in kinds.drain(..) {
        if taken.len() < count && fits(kind) { taken.push(kind) } else { left.push(kind) }
    }
    *kinds = left;
    taken.into_iter().map(|kind| fault(random, kind)).collect()
}

fn fault(random: &mut Rng, kind: Kind) -> Fault {
    let mut between = |shortest: Duration, longest: Duration| {
        let range = usize::try_from((longest - shortest).as_millis()).unwrap_or(usize::MAX);
        shortest + Duration::from_millis(random.below(range + 1) as u64)
    };
    let lasts = match kind {
        Kind::Direct(DirectFault::Rebind) | Kind::Members { .. } => Duration::ZERO,
        Kind::AgentKilled { .. } => between(Duration::ZERO, RESTART),
        Kind::Direct(_) | Kind::Uplink { .. } | Kind::CutOff { .. } | Kind::GatewayKilled | Kind::GatewayCrashed => {
            between(SHORTEST, LONGEST)
        }
    };
    Fault { kind, lasts, pause: between(PAUSE, 2 * PAUSE) }
}

impl Fault {
    /// For as long as it lasts, which is then no longer than [`LONGEST`].
    pub(crate) const fn breaks_paths(&self) -> bool {
        match self.kind {
            Kind::Direct(_)
            | Kind::Uplink { .. }
            | Kind::CutOff { .. }
            | Kind::GatewayKilled
            | Kind::GatewayCrashed => !self.lasts.is_zero(),
            Kind::AgentKilled { .. } | Kind::Members { .. } => false,
        }
    }
}

fn shuffle<T>(random: &mut Rng, things: &mut [T]) {
    for last in (1..things.len()).rev() {
        things.swap(last, random.below(last + 1));
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Direct(fault) => write!(f, "direct network: {fault}")?,
            Kind::Uplink { of } => write!(f, "node {of} without gateway and RPC")?,
            Kind::CutOff { of } => write!(f, "node {of} cut off from everything")?,
            Kind::GatewayKilled => write!(f, "gateway killed")?,
            Kind::GatewayCrashed => write!(f, "gateway's machine dead")?,
            Kind::AgentKilled { of } => write!(f, "agent of node {of} killed")?,
            Kind::Members { joins } => write!(f, "{joins} joins and leaves")?,
        }
        if self.lasts.is_zero() { Ok(()) } else { write!(f, " for {:.1?}", self.lasts) }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.refused { "refused" } else { "silent" };
        write!(f, "RPC {how} for nodes {:?}", self.nodes)
    }
}

#[test]
fn every_seed_has_every_kind() {
    for seed in 0..500 {
        let chapters = draw(&mut Rng::new(seed), 6);
        let faults: Vec<Fault> = chapters.iter().flat_map(|chapter| chapter.faults.clone()).collect();
        let outages: Vec<&Outage> = chapters.iter().filter_map(|chapter| chapter.outage.as_ref()).collect();
        assert_eq!(faults.len() + outages.len(), FAULTS, "seed {seed}");
        assert!(faults.iter().all(|fault| fault.lasts <= LONGEST), "seed {seed}");
        let joins = |fault: &Fault| if let Kind::Members { joins } = fault.kind { joins } else { 0 };
        assert_eq!(faults.iter().map(joins).sum::<usize>(), JOINS, "seed {seed}");
        for wanted in
            ["no UDP", "no UDP to", "up to", "loss", "rebind", "link of", "killed", "dead", "cut off", "without"]
        {
            assert!(faults.iter().any(|fault| fault.to_string().contains(wanted)), "seed {seed}: {wanted}");
        }
        for refused in [false, true] {
            assert!(outages.iter().any(|outage| outage.refused == refused), "seed {seed}: {outages:?}");
        }
        assert!(outages.iter().any(|outage| outage.nodes.len() == 6), "seed {seed}: {outages:?}");
    }
}
