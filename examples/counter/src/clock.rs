//! The one clock.

use std::time::{Duration, Instant};

/// Time since the start. It does not go back, and does not count while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}
