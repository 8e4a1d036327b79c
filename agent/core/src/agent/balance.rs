//! What the member address has. It is asked for after the contract was read, because it changes with blocks alone.

use std::time::Duration;

use crate::wei::Wei;

/// How often while a transaction waits for funds: some chains make several blocks a second.
const EVERY_WHILE_WAITING: Duration = Duration::from_millis(500);
/// How often otherwise: for people to see.
const EVERY: Duration = Duration::from_secs(30);

/// The balance as it was last read, and when it is read again. Times are on the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Balance {
    known: Option<Wei>,
    in_flight: bool,
    asked_at: Option<Duration>,
    /// The contract was read since.
    may_have_changed: bool,
}

impl Balance {
    /// The last answer; `None` before the first one.
    pub(super) const fn known(&self) -> Option<Wei> {
        self.known
    }

    /// The contract was read.
    pub(super) const fn handle_read(&mut self) {
        self.may_have_changed = true;
    }

    /// The answer to [`super::Command::ReadBalance`]. Without one, the last stands.
    pub(super) fn handle_answer(&mut self, balance: Option<Wei>) {
        self.in_flight = false;
        self.known = balance.or(self.known);
    }

    /// A transaction was not sent, because there was no more than this. What came since may have been read about already.
    pub(super) const fn handle_shortage(&mut self, balance: Wei) {
        self.known = Some(balance);
        self.may_have_changed = true;
    }

    /// Whether to ask now. `is_awaited`: a transaction waits for funds.
    pub(super) fn poll(&mut self, is_awaited: bool, now: Duration) -> bool {
        let is_due = self.timeout(is_awaited).is_some_and(|at| at <= now);
        if is_due {
            self.in_flight = true;
            self.asked_at = Some(now);
            self.may_have_changed = false;
        }
        is_due
    }

    /// When [`Balance::poll`] will say yes.
    pub(super) fn timeout(&self, is_awaited: bool) -> Option<Duration> {
        let every = if is_awaited { EVERY_WHILE_WAITING } else { EVERY };
        let at = self.asked_at.map_or(Duration::ZERO, |asked| asked + every);
        (self.may_have_changed && !self.in_flight).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;

    #[test]
    fn it_is_asked_for_after_reads_and_not_too_often() {
        let at = Duration::from_millis;
        let mut balance = Balance::default();
        assert_eq!((balance.poll(true, at(0)), balance.timeout(true)), (false, None));
        balance.handle_read();
        assert!(balance.poll(false, at(100)));
        balance.handle_read();
        assert!(!balance.poll(true, at(10_000)), "one at a time");
        balance.handle_answer(Some(Wei(U256::from(7))));
        assert_eq!((balance.timeout(true), balance.timeout(false)), (Some(at(600)), Some(at(30_100))));
        assert!(!balance.poll(false, at(10_000)) && !balance.poll(true, at(599)) && balance.poll(true, at(600)));
        balance.handle_answer(None);
        assert_eq!(balance.known(), Some(Wei(U256::from(7))), "what is not answered is not zero");
        assert_eq!(balance.timeout(true), None, "no block since");
    }
}
