//! The clocks: virtual time as the machines want it, and the wall clock of a node.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::chain::UNIX;

/// Where virtual time begins: some moment, the same for every run of this process. Nothing depends on which.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// This time of the world, for a device.
pub(crate) fn instant(now: Duration) -> Instant {
    origin() + now
}

/// The time of the world that a device calls so.
pub(crate) fn since_start(at: Instant) -> Duration {
    at.saturating_duration_since(origin())
}

/// What a wall clock shows that is ahead by so many seconds, since the Unix epoch.
pub(crate) fn unix(now: Duration, ahead: i64) -> Duration {
    let (right, by) = (Duration::from_secs(UNIX) + now, Duration::from_secs(ahead.unsigned_abs()));
    if ahead < 0 { right.saturating_sub(by) } else { right + by }
}
