//! One path of the simulated network, and what can be wrong with it.

use std::time::Duration;

use mesh_paths::rng::Rng;

/// What happens to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing passes, in either direction.
    Dead,
    /// Nothing passes from this side.
    OneWay(usize),
    /// Nothing above 1,000 bytes passes.
    SmallOnly,
    /// Nothing above 1,000 bytes passes from this side.
    SmallOnlyOneWay(usize),
    /// Of ten datagrams six are lost, in both directions.
    Lossy,
    /// Of ten datagrams from this side six are lost.
    LossyOneWay(usize),
    /// Both ends notice at once that the path is gone.
    Gone,
}

/// One path between the two sides.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// One way.
    pub(crate) delay: Duration,
    pub(crate) fault: Option<Fault>,
    /// Since when there is no fault.
    pub(crate) good_since: Option<Duration>,
}

impl Link {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, fault: None, good_since: Some(Duration::ZERO) }
    }

    pub(crate) fn set(&mut self, fault: Option<Fault>, now: Duration) {
        self.fault = fault;
        self.good_since = if fault.is_some() { None } else { self.good_since.or(Some(now)) };
    }

    /// Whether a datagram from `side` arrives; `dice` is uniform in 0..1000.
    pub(crate) fn carries(&self, side: usize, bytes: usize, dice: u64, background_loss: u64) -> bool {
        let lost_of_ten = match self.fault {
            None => 0,
            Some(Fault::Dead | Fault::Gone) => 10,
            Some(Fault::OneWay(from)) => 10 * u64::from(from == side),
            Some(Fault::SmallOnly) => 10 * u64::from(bytes > 1000),
            Some(Fault::SmallOnlyOneWay(from)) => 10 * u64::from(bytes > 1000 && from == side),
            Some(Fault::Lossy) => 6,
            Some(Fault::LossyOneWay(from)) => 6 * u64::from(from == side),
        };
        dice >= (lost_of_ten * 100).max(background_loss)
    }
}

/// The dice of a simulation, from its seed alone.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Rng);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    pub(crate) const fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }
}
