//! The one place where clocks are read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_core::agent::Now;
use tokio::time::Instant;

/// With nothing to wait for, the driver still wakes once an hour.
const FOREVER: Duration = Duration::from_secs(3600);

/// Both clocks. The monotonic one is tokio's, so that tests can pause it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall: fn() -> SystemTime,
}

impl Clock {
    /// Starts the monotonic clock now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: SystemTime::now }
    }

    /// The moment from which the monotonic clock counts.
    #[must_use]
    pub const fn epoch(&self) -> Instant {
        self.start
    }

    /// One reading of both.
    #[must_use]
    pub fn now(&self) -> Now {
        // A clock before 1970 is as wrong as one at 1970.
        let unix = (self.wall)().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { since_start: self.start.elapsed(), unix }
    }

    /// When to wake, and why.
    #[must_use]
    pub fn deadline(&self, timeout: Option<(Duration, &'static str)>) -> (Instant, &'static str) {
        match timeout {
            Some((since_start, reason)) => (self.start + since_start, reason),
            None => (Instant::now() + FOREVER, "nothing to do"),
        }
    }
}
