//! The timestamp of an initiation (paper, section 5.1): each is later than the last, so that a peer accepts none twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// TAI64N (<https://cr.yp.to/libtai/tai64.html>): comparing the bytes compares the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp([u8; Self::LEN]);

impl Timestamp {
    pub(super) const LEN: usize = 12;

    /// Unix time 0.
    const EPOCH: u64 = (1 << 62) + 10;

    pub(super) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn of(nanos: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&(Self::EPOCH + nanos / SECOND).to_be_bytes());
        bytes[8..].copy_from_slice(&((nanos % SECOND) as u32).to_be_bytes());
        Self(bytes)
    }
}

/// Gives timestamps, each later than the one before, even where the system's clock is set back: a peer would take an initiation
/// with an earlier one for a replay.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// Nanoseconds are rounded down to a multiple of this, about 17 ms, so that timestamps reveal no durations of calculations
    /// here.
    const COARSE: u64 = 1 << 24;

    pub(super) fn next(&self, wall_clock: SystemTime) -> Timestamp {
        let now = wall_clock.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        self.at(now - now % Self::COARSE)
    }

    fn at(&self, now: u64) -> Timestamp {
        let later = |last: u64| Some(now.max(last + 1));
        // The closure always returns `Some`.
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_default();
        Timestamp::of(now.max(last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_known_time() {
        // 2006-01-02 15:04:05.000000001 UTC.
        let bytes = *b"\x40\x00\x00\x00\x43\xb9\x40\xef\x00\x00\x00\x01";
        assert_eq!(Timestamp::of(1_136_214_245_000_000_001).0, bytes);
    }

    #[test]
    fn each_is_later_than_the_last() {
        let clock = Clock::default();
        let times = [5, 5, 3, 9, 4].map(|now| clock.at(now));
        assert!(times.is_sorted() && times.windows(2).all(|pair| pair[0] != pair[1]), "{times:?}");
        assert_eq!(times[3], Timestamp::of(9), "the clock is followed once it is ahead");
        let now = SystemTime::now();
        assert!(clock.next(now) > times[4] && clock.next(now) < clock.next(now));
    }
}
