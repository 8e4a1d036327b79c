//! Random numbers of a run: every one of them follows from the seed.

use std::time::Duration;

use mesh_paths::rng::Rng as Generator;

/// A generator for one purpose. Generators of different purposes are independent, so that a fault taken out of a schedule leaves
/// the packet losses of the rest as they are.
#[derive(Debug, Clone)]
pub(crate) struct Rng(Generator);

impl Rng {
    /// The generator of this seed for this purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut first = Generator::new(seed ^ purpose.wrapping_mul(0xd605_1f5d_7a3e_9b27));
        Self(Generator::new(first.next_u64()))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `limit`; zero where that is zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.number().checked_rem(limit).unwrap_or_default()
    }

    /// An index below `limit`, which is at least 1.
    pub(crate) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap_or_default()
    }

    /// True `per_mille` times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Between two durations, in whole microseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(span.saturating_add(1)))
    }

    /// Between two numbers of milliseconds.
    pub(crate) fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.between(Duration::from_millis(least), Duration::from_millis(most))
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}
