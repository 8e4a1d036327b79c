//! When each peer is dialed.

use std::time::Duration;

use mesh_core::id::TokenId;

use super::{Action, Peer, Table};
use crate::stream::{StreamError, StreamId};

/// Waiting before a peer that was not reached is dialed again: at first, and at most. A thousand agents then dial one that is gone 80
/// times in a second.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(250);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Dials after something that many nodes see at once are spread over this time.
pub(super) const JITTER: Duration = Duration::from_millis(250);
/// A stream younger than this is not replaced on demand.
pub(super) const YOUNG: Duration = Duration::from_secs(3);

impl Table {
    /// The machine's network changed: every stream that this side made is made anew, and nothing that failed before counts. Not
    /// more than once in a second.
    pub(crate) fn retry(&mut self, now: Duration) {
        if self.retried.is_some_and(|at| now < at + Duration::from_secs(1)) {
            return;
        }
        self.retried = Some(now);
        self.gateways.forget();
        let tokens: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in tokens {
            self.dial_soon(token, now);
        }
        self.dial(now);
    }

    /// The stream to this peer does not carry what it should: another is made, if this side makes them, it is not young, and
    /// none failed to be made since it was.
    pub(crate) fn redial(&mut self, token: TokenId, now: Duration) {
        let is_old = |peer: &Peer| peer.current.is_some_and(|current| current.since + YOUNG <= now);
        if self.peers.get(&token).is_some_and(|peer| is_old(peer) && peer.failures == 0) {
            self.dial_soon(token, now);
            self.dial(now);
        }
    }

    /// Dials every peer that is due and allowed.
    pub(crate) fn dial(&mut self, now: Duration) {
        let Self { peers, gateways, actions, next_stream, .. } = self;
        for (token, peer) in peers {
            let is_due = peer.may_be_dialed() && peer.due.is_some_and(|due| due <= now);
            if let Some(place) = peer.place.as_ref().filter(|_| is_due)
                && gateways.begin_dial(&place.domain, StreamId(*next_stream), now)
            {
                let stream = StreamId(*next_stream);
                *next_stream += 1;
                (peer.dialing, peer.due) = (Some(stream), None);
                actions.push_back(Action::Dial { peer: *token, stream, place: place.clone() });
            }
        }
    }

    pub(crate) fn dial_soon(&mut self, token: TokenId, now: Duration) {
        let jitter = self.rng.below(JITTER);
        if let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.place.is_some()) {
            peer.failures = 0;
            peer.due = Some(peer.due.map_or(now + jitter, |due| due.min(now + jitter)));
        }
    }

    /// A dial ended, and says something about its gateway.
    pub(crate) fn reached(&mut self, token: TokenId, stream: StreamId, is_reached: bool, now: Duration) {
        let pause = FIRST_WAIT * 2 + self.rng.below(FIRST_WAIT * 2);
        let Some(domain) = self.gateways.end_dial(stream, is_reached, now + pause) else { return };
        // It is back: all peers that waited for it are dialed, but not in the same moment.
        let waiting: Vec<TokenId> = self
            .peers
            .iter()
            .filter(|(other, peer)| **other != token && peer.place.as_ref().is_some_and(|place| place.domain == domain))
            .map(|(other, _)| *other)
            .collect();
        for other in waiting {
            let jitter = self.rng.below(JITTER);
            if let Some(peer) = self.peers.get_mut(&other) {
                peer.due = peer.due.map(|due| due.max(now + jitter));
            }
        }
    }

    /// The peer was not reached, or its stream was of no use: it is dialed later, and later still each time.
    pub(crate) fn failed(&mut self, token: TokenId, error: StreamError, now: Duration) {
        let Self { peers, rng, .. } = self;
        let Some(peer) = peers.get_mut(&token) else { return };
        let longest = FIRST_WAIT.saturating_mul(1 << peer.failures.min(8)).min(LONGEST_WAIT);
        peer.failures = peer.failures.saturating_add(1);
        peer.error = Some(error);
        let wait = longest / 2 + rng.below(longest / 2);
        peer.due = peer.place.as_ref().map(|_| now + wait);
    }

    pub(super) fn redial_at(&mut self, now: Duration) -> Duration {
        now + self.redial_after - self.rng.below(self.redial_after / 4)
    }
}
