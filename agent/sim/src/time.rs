//! The wall clock of a node.

use std::time::Duration;

use crate::chain::UNIX;

/// What a wall clock shows that is ahead by so many seconds, since the Unix epoch.
pub(crate) fn unix(now: Duration, ahead: i64) -> Duration {
    let (right, by) = (Duration::from_secs(UNIX) + now, Duration::from_secs(ahead.unsigned_abs()));
    if ahead < 0 { right.saturating_sub(by) } else { right + by }
}
