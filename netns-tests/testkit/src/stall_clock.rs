//! A clock that leaves out the time for which the whole machine was stalled.
//!
//! A test machine stalls now and then: its host pauses it, or another guest has its processors. The limits are about nodes, so that
//! what is measured leaves such stalls out. A machine whose processors are merely busy is not stalled.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// A thread that does nothing else wakes this often.
const BEAT: Duration = Duration::from_millis(5);
/// A beat that comes this much later than the last one: no other thread was scheduled in between either.
const STALL: Duration = Duration::from_millis(100);

static PULSE: LazyLock<Mutex<Pulse>> = LazyLock::new(|| {
    thread::spawn(|| {
        loop {
            thread::sleep(BEAT);
            PULSE.lock().unwrap_or_else(PoisonError::into_inner).beat(Instant::now());
        }
    });
    Mutex::new(Pulse { last: Instant::now(), stalls: Vec::new() })
});

/// The stalls of the machine since this process first asked, each from and to.
#[derive(Debug)]
struct Pulse {
    last: Instant,
    stalls: Vec<(Instant, Instant)>,
}

impl Pulse {
    fn beat(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last) >= STALL {
            self.stalls.push((self.last, now));
        }
        self.last = self.last.max(now);
    }

    /// The time between these two moments without the stalls.
    fn elapsed(&self, from: Instant, to: Instant) -> Duration {
        let lost = |(began, ended): &(Instant, Instant)| (*ended).min(to).saturating_duration_since((*began).max(from));
        let lost: Duration = self.stalls.iter().map(lost).sum();
        to.saturating_duration_since(from).saturating_sub(lost)
    }
}

/// Begins to watch the machine: stalls from before are not known.
pub fn watch() {
    LazyLock::force(&PULSE);
}

/// Time since `start` without the machine's stalls.
#[must_use]
pub fn since(start: Instant) -> Duration {
    let now = Instant::now();
    with_pulse(now, |pulse| pulse.elapsed(start, now))
}

/// Time between two readings of the wall clock, of any process, without the machine's stalls.
#[must_use]
pub fn between(from: SystemTime, to: SystemTime) -> Duration {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let ago = |then: SystemTime| now.checked_sub(wall.duration_since(then).unwrap_or_default()).unwrap_or(now);
    with_pulse(now, |pulse| pulse.elapsed(ago(from), ago(to)))
}

/// The pulse as it is now: the calling thread may be scheduled before the thread that beats.
fn with_pulse<T>(now: Instant, look: impl FnOnce(&Pulse) -> T) -> T {
    let mut pulse = PULSE.lock().unwrap_or_else(PoisonError::into_inner);
    pulse.beat(now);
    look(&pulse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_within_a_stall_is_left_out() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut pulse = Pulse { last: start, stalls: Vec::new() };
        // Busy until 90 ms, still until 3,000 ms.
        for beat in [20, 90, 3000, 3010] {
            pulse.beat(at(beat));
        }
        let elapsed = |from, to| pulse.elapsed(at(from), at(to)).as_millis();
        assert_eq!([elapsed(0, 90), elapsed(0, 3010), elapsed(1000, 2000), elapsed(1000, 3010)], [90, 100, 0, 10]);
        assert_eq!([elapsed(3000, 3010), elapsed(3010, 3000)], [10, 0]);
    }
}
