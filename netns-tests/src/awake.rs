//! Time during which the machine ran at all.
//!
//! A test machine stands still now and then: its host pauses it, or another guest has its processors. The limits are about
//! nodes, so that what is measured leaves such times out. Processors that are merely busy are no standstill.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// A thread that does nothing else wakes this often.
const BEAT: Duration = Duration::from_millis(5);
/// A beat that comes this much later than the last one: nobody else was served in between either.
const STANDSTILL: Duration = Duration::from_millis(100);

static PULSE: LazyLock<Mutex<Pulse>> = LazyLock::new(|| {
    thread::spawn(|| {
        loop {
            thread::sleep(BEAT);
            PULSE.lock().unwrap_or_else(PoisonError::into_inner).beat(Instant::now());
        }
    });
    Mutex::new(Pulse { last: Instant::now(), standstills: Vec::new() })
});

/// When the machine stood still since this process first asked, each from and to.
#[derive(Debug)]
struct Pulse {
    last: Instant,
    standstills: Vec<(Instant, Instant)>,
}

impl Pulse {
    fn beat(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last) >= STANDSTILL {
            self.standstills.push((self.last, now));
        }
        self.last = self.last.max(now);
    }

    /// How much of the time between these two was not a standstill.
    fn awake_between(&self, from: Instant, to: Instant) -> Duration {
        let lost = |(began, ended): &(Instant, Instant)| (*ended).min(to).saturating_duration_since((*began).max(from));
        let lost: Duration = self.standstills.iter().map(lost).sum();
        to.saturating_duration_since(from).saturating_sub(lost)
    }
}

/// Begins to watch the machine: what was before is not known, and counts as awake.
pub(crate) fn watch() {
    LazyLock::force(&PULSE);
}

/// Time since `start` during which the machine ran.
#[must_use]
pub fn awake_since(start: Instant) -> Duration {
    let now = Instant::now();
    with_pulse(now, |pulse| pulse.awake_between(start, now))
}

/// Time between two readings of the wall clock, of any process, during which the machine ran.
#[must_use]
pub fn awake_between(from: SystemTime, to: SystemTime) -> Duration {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let ago = |then: SystemTime| now.checked_sub(wall.duration_since(then).unwrap_or_default()).unwrap_or(now);
    with_pulse(now, |pulse| pulse.awake_between(ago(from), ago(to)))
}

/// The pulse as it is now: who asks may run again before the thread that beats does.
fn with_pulse<T>(now: Instant, look: impl FnOnce(&Pulse) -> T) -> T {
    let mut pulse = PULSE.lock().unwrap_or_else(PoisonError::into_inner);
    pulse.beat(now);
    look(&pulse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_within_a_standstill_is_left_out() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut pulse = Pulse { last: start, standstills: Vec::new() };
        // Busy until 90 ms, still until 3,000 ms.
        for beat in [20, 90, 3000, 3010] {
            pulse.beat(at(beat));
        }
        let awake = |from, to| pulse.awake_between(at(from), at(to)).as_millis();
        assert_eq!([awake(0, 90), awake(0, 3010), awake(1000, 2000), awake(1000, 3010)], [90, 100, 0, 10]);
        assert_eq!([awake(3000, 3010), awake(3010, 3000)], [10, 0]);
    }
}
