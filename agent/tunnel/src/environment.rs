//! What a device asks of its machine besides the monotonic time, which it is given with every call.

use std::time::{Duration, SystemTime};

/// The machine that a device runs on, or one that a test makes up.
pub(crate) trait Environment {
    /// The time of day: for the timestamps in initiations, and to show when a handshake was.
    fn wall_clock(&self) -> SystemTime;

    /// Processor time of this thread: what work takes is measured between two calls.
    fn worked(&self) -> Duration;

    /// A number that differs from call to call. It need not be unpredictable.
    fn random(&self) -> u64;
}
