//! When to read the contract: after a hint, after silence, and again after a failure. One read at a time.

use std::time::Duration;

use super::backoff::Backoff;

/// Silence after which the contract is read without a hint.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// Hints cannot make reads that fail follow each other faster than this.
const FAILED_READ_SPACING: Duration = Duration::from_millis(250);

/// When the next read is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The read was accepted.
    Accepted,
    /// The read asks for another one after this time.
    After(Duration),
    /// There was nothing to accept.
    Failed,
}

/// The schedule of reads. Times are on the monotonic clock.
#[derive(Debug)]
pub(super) struct Reads {
    /// Since when a read is under way.
    in_flight: Option<Duration>,
    hinted: bool,
    due: Duration,
    not_before: Duration,
    backoff: Backoff,
}

impl Reads {
    /// The first read is due at once.
    pub(super) const fn new(now: Duration) -> Self {
        // The first failure is often a busy endpoint, and a removal cannot wait.
        let backoff = Backoff::new(FAILED_READ_SPACING, SILENCE);
        Self { in_flight: None, hinted: false, due: now, not_before: now, backoff }
    }

    /// Something may have changed. While a read is under way, one more follows it: that one may have read too early.
    pub(super) fn handle_hint(&mut self, now: Duration) {
        if self.in_flight.is_some() {
            self.hinted = true;
        } else {
            self.due = self.due.min(now.max(self.not_before));
        }
    }

    /// The read is answered.
    pub(super) fn handle_answer(&mut self, next: Next, now: Duration) {
        self.in_flight = None;
        let hinted = std::mem::take(&mut self.hinted);
        match next {
            Next::Accepted => {
                self.backoff.reset();
                self.not_before = now;
                self.due = now + SILENCE;
            }
            Next::After(delay) => {
                self.not_before = now;
                self.due = now + delay;
            }
            Next::Failed => {
                self.not_before = now + FAILED_READ_SPACING;
                self.due = now + self.backoff.fail();
            }
        }
        if hinted {
            self.due = self.due.min(self.not_before);
        }
    }

    /// Whether to start a read now.
    pub(super) fn poll(&mut self, now: Duration) -> bool {
        let start = self.in_flight.is_none() && self.due <= now;
        if start {
            self.in_flight = Some(now);
        }
        start
    }

    /// When [`Reads::poll`] will say yes.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.in_flight.is_none().then_some(self.due)
    }

    /// Since when the read that is under way has had no answer.
    pub(super) const fn unanswered_since(&self) -> Option<Duration> {
        self.in_flight
    }
}
