//! smoltcp's time, which runs faster than ours.
//!
//! smoltcp waits at least a second for an acknowledgement before it sends again (RFC 6298, 2.4), and where few packets are under way, a
//! lost one is noticed by that alone. The kernels at the other ends wait 200 ms (`TCP_RTO_MIN`). That length is no setting of
//! smoltcp's, but its clock is ours: five of its seconds are one of ours. Its measurements of round trips are of the same clock, and
//! its congestion control (Reno) knows no time, so nothing else changes but for the lengths that are set here.

use std::time::Duration;

use smoltcp::time;

/// Its seconds in one of ours.
const SCALE: u32 = 5;

/// Its time at `now`, which counts from any fixed moment.
pub(crate) fn scaled(now: Duration) -> time::Instant {
    time::Instant::from_micros(i64::try_from((now * SCALE).as_micros()).unwrap_or(i64::MAX))
}

/// A length of its time.
pub(super) fn scaled_time(real: Duration) -> time::Duration {
    time::Duration::from_micros(u64::try_from((real * SCALE).as_micros()).unwrap_or(u64::MAX))
}

/// When that is; not before the moment itself.
pub(super) fn real(at: time::Instant) -> Duration {
    let micros = u64::try_from(at.total_micros()).unwrap_or(0);
    Duration::from_micros(micros.div_ceil(SCALE.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_never_too_early() {
        for micros in [0, 1, 4, 999_999, 10_000_000_000] {
            let now = Duration::from_micros(micros);
            assert_eq!(real(scaled(now)), now);
            assert!(
                scaled(real(time::Instant::from_micros(micros as i64))) >= time::Instant::from_micros(micros as i64)
            );
        }
        assert_eq!(real(time::Instant::from_micros(-1)), Duration::ZERO);
    }
}
