//! Waiting longer after each failure, up to a cap.

use std::time::Duration;

/// Delays of `first`, then twice the last, up to `cap`.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The delay after one more failure.
    pub(super) fn fail(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.cap);
        delay
    }

    /// Something worked.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}
