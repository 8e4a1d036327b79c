//! Which peer is due when: one look at the first, however many there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::id::TokenId;

/// The next moment of each peer.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    by_time: BTreeSet<(Duration, TokenId)>,
    by_peer: BTreeMap<TokenId, Duration>,
}

impl Schedule {
    /// The peer is due then, and at no other time.
    pub(super) fn set(&mut self, peer: TokenId, due: Option<Duration>) {
        let before = match due {
            Some(due) => self.by_peer.insert(peer, due),
            None => self.by_peer.remove(&peer),
        };
        if before != due {
            if let Some(before) = before {
                self.by_time.remove(&(before, peer));
            }
            if let Some(due) = due {
                self.by_time.insert((due, peer));
            }
        }
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Duration> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Takes out every peer that is due by `now`.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<TokenId> {
        let mut due = Vec::new();
        while let Some(first) = self.by_time.first().copied().filter(|(at, _)| *at <= now) {
            self.by_time.remove(&first);
            self.by_peer.remove(&first.1);
            due.push(first.1);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_last_of_a_peer_counts() {
        let [a, b] = [1, 2].map(|n| TokenId::new(n).unwrap());
        let at = Duration::from_secs;
        let mut schedule = Schedule::default();
        for (peer, due) in [(a, Some(at(5))), (b, Some(at(4))), (a, Some(at(3))), (b, None), (a, Some(at(3)))] {
            schedule.set(peer, due);
        }
        assert_eq!((schedule.first(), schedule.take_due(at(2))), (Some(at(3)), Vec::new()));
        schedule.set(b, Some(at(1)));
        assert_eq!(schedule.take_due(at(3)), [b, a]);
        assert_eq!((schedule.first(), schedule.by_peer.len()), (None, 0));
    }
}
