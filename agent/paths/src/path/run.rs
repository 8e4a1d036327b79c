//! Which run of the peer's agent is heard, and whether it said that it stops.
//!
//! All requests of one run have the same upper half of their numbers, drawn anew for each run. So what is left of an earlier run,
//! late or held back on its way, is told from what the present one says: it neither stops a peer that was started again, nor starts
//! one that stopped.

use std::{collections::VecDeque, time::Duration};

/// Runs that are over, as many as are remembered: the sessions in which they spoke are over long before.
const REMEMBERED: usize = 8;

/// The runs of the peer's agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    current: Option<u32>,
    over: VecDeque<u32>,
    stopped: Option<Duration>,
}

/// What a request says of the run that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is the one that is heard, or the first.
    Same,
    /// The peer was started again.
    Restarted,
    /// It is over.
    Over,
}

impl Runs {
    /// A request of this number came.
    pub(super) fn heard(&mut self, sequence: u64) -> Heard {
        let run = run_of(sequence);
        if self.current == Some(run) {
            return Heard::Same;
        }
        if self.over.contains(&run) {
            return Heard::Over;
        }
        self.end();
        (self.current, self.stopped) = (Some(run), None);
        if self.over.is_empty() { Heard::Same } else { Heard::Restarted }
    }

    /// The run that numbers its messages so said that it stops; `false` if it is not the one that is heard.
    pub(super) fn stops(&mut self, sequence: u64, now: Duration) -> bool {
        let run = run_of(sequence);
        if self.over.contains(&run) || self.current.is_some_and(|current| current != run) {
            return false;
        }
        self.current = Some(run);
        self.end();
        self.stopped = Some(now);
        true
    }

    /// When the peer stopped, if it was not heard of again.
    pub(super) const fn stopped(&self) -> Option<Duration> {
        self.stopped
    }

    fn end(&mut self) {
        let Some(run) = self.current.take() else { return };
        if self.over.len() == REMEMBERED {
            self.over.pop_front();
        }
        self.over.push_back(run);
    }
}

/// The first number of a run that has this random number.
pub(super) const fn first_of_run(random: u64) -> u64 {
    random & !(u32::MAX as u64)
}

const fn run_of(sequence: u64) -> u32 {
    (sequence >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    /// The number of a message of that run.
    const fn of(run: u64, number: u64) -> u64 {
        first_of_run(run << 32 | 0x5eed) + number
    }

    #[test]
    fn a_run_stops_once_and_another_one_begins() {
        let mut runs = Runs::default();
        assert_eq!((runs.heard(of(1, 1)), runs.heard(of(1, 2)), runs.stopped()), (Heard::Same, Heard::Same, None));
        assert!(runs.stops(of(1, 3), NOW));
        assert!(!runs.stops(of(1, 3), NOW * 2), "the second copy says nothing new");
        assert_eq!((runs.heard(of(1, 2)), runs.stopped()), (Heard::Over, Some(NOW)), "sent before, and overtaken");
        assert_eq!((runs.heard(of(2, 1)), runs.stopped()), (Heard::Restarted, None));
        assert!(!runs.stops(of(1, 3), NOW * 3), "held back until the peer was there again");
        assert_eq!((runs.heard(of(1, 9)), runs.heard(of(2, 2)), runs.stopped()), (Heard::Over, Heard::Same, None));
    }

    #[test]
    fn a_run_that_was_never_heard_stops_only_where_none_is() {
        let mut runs = Runs::default();
        assert!(runs.stops(of(1, 1), NOW), "this node has just begun to listen");
        assert_eq!(runs.heard(of(2, 1)), Heard::Restarted);
        assert!(!runs.stops(of(3, 1), NOW));
    }

    #[test]
    fn a_run_that_asked_nothing_stops_as_well() {
        let mut runs = Runs::default();
        assert!(runs.stops(of(1, 1), NOW) && runs.stops(of(2, 1), NOW * 2));
        assert_eq!(runs.stopped(), Some(NOW * 2));
    }

    #[test]
    fn no_more_runs_are_remembered_than_matter() {
        let mut runs = Runs::default();
        for run in 1..1000 {
            runs.heard(of(run, 1));
        }
        assert_eq!(runs.over.len(), REMEMBERED);
    }
}
