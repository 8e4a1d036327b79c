//! Attempts at the peer's addresses: when each is made, and how many at most.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use super::message::CANDIDATES;

/// When an address is tried, counted from its first attempt.
const ATTEMPTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];
/// Addresses tried side by side; others wait. A device remembers twice as many initiations of this kind to a peer, so that what
/// is answered before the next but one attempt counts.
const AT_ONCE: usize = 4;
/// Attempts in [`SHORT`] and in [`LONG`], whatever the peer says: it cannot have this node flood another host.
const IN_SHORT: usize = 40;
const SHORT: Duration = Duration::from_secs(10);
const IN_LONG: usize = 240;
const LONG: Duration = Duration::from_secs(300);

/// The attempts at one peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Tries {
    /// Best first.
    targets: Vec<Target>,
    /// When attempts were made, in the last [`LONG`].
    made: VecDeque<Duration>,
    ready: VecDeque<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    address: SocketAddr,
    first: Option<Duration>,
    attempts: usize,
}

impl Target {
    /// When the next attempt is due; at once if there was none.
    fn due(&self) -> Option<Duration> {
        let after = ATTEMPTS.get(self.attempts)?;
        Some(self.first.map_or(Duration::ZERO, |first| first + *after))
    }
}

impl Tries {
    /// Tries these as well, unless it does already or there are too many.
    pub(super) fn add(&mut self, addresses: Vec<SocketAddr>, now: Duration) {
        for address in addresses {
            if self.targets.len() < CANDIDATES && self.targets.iter().all(|target| target.address != address) {
                self.targets.push(Target { address, first: None, attempts: 0 });
            }
        }
        self.advance(now);
    }

    /// No more attempts are needed.
    pub(super) fn stop(&mut self) {
        self.targets.clear();
        self.ready.clear();
    }

    pub(super) fn advance(&mut self, now: Duration) {
        while self.made.front().is_some_and(|&made| now >= made + LONG) {
            self.made.pop_front();
        }
        while let Some(due) = self.due_at(now).filter(|_| self.free_at() <= now) {
            let target = &mut self.targets[due];
            target.first.get_or_insert(now);
            target.attempts += 1;
            let address = target.address;
            self.made.push_back(now);
            if self.ready.len() == IN_SHORT {
                self.ready.pop_front();
            }
            self.ready.push_back(address);
            self.targets.retain(|target| target.attempts < ATTEMPTS.len());
        }
    }

    pub(super) fn pop(&mut self) -> Option<SocketAddr> {
        self.ready.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let due = self.at_once().filter_map(Target::due).min()?;
        Some(due.max(self.free_at()))
    }

    /// The place of a target whose next attempt is due.
    fn due_at(&self, now: Duration) -> Option<usize> {
        self.at_once().position(|target| target.due().is_some_and(|due| due <= now))
    }

    fn at_once(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().take(AT_ONCE)
    }

    /// From when on another attempt is within the limits.
    fn free_at(&self) -> Duration {
        let end = |attempts: usize, window: Duration| {
            let first = self.made.len().checked_sub(attempts)?;
            Some(*self.made.get(first)? + window)
        };
        end(IN_SHORT, SHORT).max(end(IN_LONG, LONG)).unwrap_or_default()
    }
}
