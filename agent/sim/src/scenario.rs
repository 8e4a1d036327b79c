//! What a seed decides: the world, and everything that will happen to it. A run is a function of this alone.

mod faults;
mod plan;

use std::{fmt, time::Duration};

pub use faults::{Fault, GatewayEnd, PathFault};
pub(crate) use plan::{Home, NatKind, NatPlan, NodePlan, WorldPlan, nat_address};

use crate::rng::Rng;

/// What a run is about. The narrower ones hold the product to stricter bounds, because less happens in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Nodes join, leave and are revoked, and nothing fails.
    Calm,
    /// RPC endpoints lie, lag and fail; the chain forks and halts; nodes restart.
    Sources,
    /// One fault of one path at a time, with peace between them.
    Failover,
    /// Nodes behind NATs, whose only way to a direct path is to find it together.
    Nat,
    /// The gateway ends streams, limits them, and dies.
    Gateway,
    /// A host moves from address to address, and agents of others stop in order and are started again, one at a time.
    Hosts,
    /// A node leaves, another is started again, and the only endpoint then shows the contract as it was before.
    OldState,
    /// The host of one node keeps it from all endpoints, and members tell it what they read, or lie.
    Blind,
    /// Two nodes talk for so long that their sessions are renewed.
    Long,
    /// Everything at once.
    Chaos,
}

impl Profile {
    /// As often as they are drawn, but for [`Profile::Hosts`] and [`Profile::OldState`], which every eighth seed has, and
    /// [`Profile::Blind`], which every sixteenth has.
    const ALL: [Self; 14] = [
        Self::Calm,
        Self::Calm,
        Self::Sources,
        Self::Sources,
        Self::Failover,
        Self::Failover,
        Self::Nat,
        Self::Nat,
        Self::Gateway,
        Self::Gateway,
        Self::Chaos,
        Self::Chaos,
        Self::Chaos,
        Self::Long,
    ];
}

/// Something that happens at its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// Since the beginning of the run.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// One run, before it is run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Decides the world, and every random number during the run.
    pub seed: u64,
    /// What it is about.
    pub profile: Profile,
    /// What happens, in order. A run with some of it taken out is a run, too.
    pub history: Vec<Timed>,
    pub(crate) world: WorldPlan,
    /// When the last fault is over at the latest.
    pub(crate) length: Duration,
}

impl Scenario {
    /// When the chain halts in [`Scenario::halt`].
    pub const HALTS_AT: Duration = Duration::from_secs(90);

    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let drawn = rng.pick(&Profile::ALL);
        let profile = match seed % 16 {
            3 | 11 => Profile::OldState,
            7 | 15 => Profile::Hosts,
            5 => Profile::Blind,
            _ => drawn,
        };
        let world = WorldPlan::draw(profile, &mut rng);
        let length = match profile {
            Profile::Calm => rng.millis(12_000, 25_000),
            Profile::Sources | Profile::Gateway | Profile::OldState | Profile::Chaos => rng.millis(20_000, 45_000),
            Profile::Failover | Profile::Hosts => rng.millis(40_000, 60_000),
            Profile::Blind => rng.millis(40_000, 50_000),
            Profile::Nat => rng.millis(20_000, 35_000),
            Profile::Long => rng.millis(190_000, 200_000),
        };
        let history = faults::draw(profile, &world, length, &mut rng);
        Self { seed, profile, history, world, length }
    }

    /// Three nodes, and a chain that stands still for so long, read from `endpoints` of which `need` must say the same; some of them
    /// see no block for a minute before it does, and go on seeing none. Nothing else happens.
    #[must_use]
    pub fn halt(endpoints: usize, need: usize, behind: usize, lasts: Duration) -> Self {
        let world = WorldPlan { endpoints, need, ..WorldPlan::calm(3) };
        let frozen = (0..behind).map(|endpoint| Timed {
            at: Self::HALTS_AT - Duration::from_secs(60),
            fault: Fault::EndpointFreezes(endpoint, lasts + Duration::from_secs(60)),
        });
        let halt = Timed { at: Self::HALTS_AT, fault: Fault::Halt(lasts) };
        let history = frozen.chain([halt]).collect();
        Self { seed: 0, profile: Profile::Sources, history, world, length: Self::HALTS_AT + lasts }
    }

    /// Five nodes, of which the host of the first keeps it from all endpoints, refusing what goes there or dropping it; the last is revoked
    /// so much later, unless so many of the others say that it was, which it was not.
    #[must_use]
    pub fn blocked(refuses: bool, revoked_after: Duration, liars: usize) -> Self {
        let world = WorldPlan { endpoints: 3, need: 2, ..WorldPlan::calm(5) };
        let (at, lasts) = (Duration::from_secs(10), Duration::from_secs(40));
        let then = match liars {
            0 => Timed { at: at + revoked_after, fault: Fault::Revoke(4) },
            _ => Timed { at, fault: Fault::Collude((1..=liars).collect(), 4, Duration::from_secs(20)) },
        };
        let history = vec![Timed { at, fault: Fault::Blocked(0, refuses, lasts) }, then];
        Self { seed: 0, profile: Profile::Blind, history, world, length: at + lasts }
    }

    /// The same without everything that happens.
    #[must_use]
    pub fn with(&self, history: Vec<Timed>) -> Self {
        Self { history, ..self.clone() }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, profile, history, world, length } = self;
        writeln!(f, "seed {seed}: {profile:?}, {length:.1?}, {world}")?;
        for Timed { at, fault } in history {
            writeln!(f, "  {:>8.3} s  {fault:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
