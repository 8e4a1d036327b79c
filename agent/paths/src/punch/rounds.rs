//! When this end calls the other: the schedule of rounds, and a call's repetitions until it is answered.

use std::time::Duration;

use crate::rng::jitter;

const SECOND: Duration = Duration::from_secs(1);
/// From one round to the next, while direct UDP does not work; from then on [`SELDOM`].
const DELAYS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(30)];
const SELDOM: Duration = Duration::from_secs(300);
/// A call without an answer is repeated so long after its last sending.
const REPEATS: [Duration; 3] = [Duration::from_millis(500), SECOND, Duration::from_secs(2)];
/// What happens soon after a round began belongs to it: both ends call at the same time.
const ROUND: Duration = Duration::from_secs(2);
/// Whatever happens, no new round of our own sooner after the last.
const SOONEST: Duration = SECOND;

/// The calls to one peer.
#[derive(Debug, Clone)]
pub(super) struct Rounds {
    seed: u64,
    /// Of the last call.
    number: u32,
    called: Option<Duration>,
    /// When the last round began, by whichever end.
    begun: Option<Duration>,
    /// Rounds since the schedule began anew.
    step: usize,
    next: Option<Duration>,
    /// The last call has no answer.
    waits: bool,
    /// How often it was repeated, and when it is again.
    repeat: Option<(usize, Duration)>,
}

impl Rounds {
    pub(super) const fn new(seed: u64) -> Self {
        let number = (seed >> 32) as u32;
        Self { seed, number, called: None, begun: None, step: 0, next: None, waits: false, repeat: None }
    }

    /// Something changed: the schedule begins anew, at once.
    pub(super) fn restart(&mut self, now: Duration) {
        self.step = 0;
        self.next = Some(self.called.map_or(now, |called| now.max(called + SOONEST)));
    }

    /// No further round until the next [`Self::restart`]; the last call is still repeated until it is answered.
    pub(super) const fn rest(&mut self) {
        self.next = None;
    }

    /// Nothing can be sent to the peer.
    pub(super) const fn stop(&mut self) {
        self.next = None;
        self.repeat = None;
    }

    /// The peer has called.
    pub(super) fn was_called(&mut self, now: Duration) {
        if self.next.is_some() && self.begun.is_none_or(|begun| now >= begun + ROUND) {
            self.begin(now);
        }
    }

    /// Whether a call of that number waits for its answer, which is this.
    pub(super) fn answered(&mut self, number: u32) -> bool {
        let answered = self.waits && self.number == number;
        if answered {
            self.waits = false;
            self.repeat = None;
        }
        answered
    }

    /// The number of the call to make now, if one is due. `goes_on`: another round is to follow.
    pub(super) fn poll_call(&mut self, goes_on: bool, now: Duration) -> Option<u32> {
        if self.next.is_some_and(|next| next <= now) {
            self.number = self.number.wrapping_add(1);
            self.called = Some(now);
            self.begin(now);
            if !goes_on {
                self.next = None;
            }
            self.waits = true;
            self.repeat = Some((0, now + REPEATS[0]));
            return Some(self.number);
        }
        let (repeated, _) = self.repeat.filter(|&(_, due)| due <= now)?;
        self.repeat = REPEATS.get(repeated + 1).map(|&after| (repeated + 1, now + after));
        Some(self.number)
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.next.into_iter().chain(self.repeat.map(|(_, due)| due)).min()
    }

    /// A round begins, and the next one is due when its time has come, or up to a fifth of it later.
    fn begin(&mut self, now: Duration) {
        self.begun = Some(now);
        let delay = DELAYS.get(self.step).copied().unwrap_or(SELDOM);
        self.step = self.step.saturating_add(1);
        self.next = Some(now + delay + delay * u32::from(jitter(self.seed, self.number.into())) / 1280);
    }
}
