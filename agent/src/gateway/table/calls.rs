//! When which peer is called.

use std::time::Duration;

use mesh_core::id::TokenId;

use super::{Action, Peer, Table};
use crate::gateway::{StreamId, Trouble};

/// Waiting before another call to a peer that was not reached: at first, and at most. A thousand agents then call one that is
/// gone 80 times in a second.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(250);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Calls after something that many see at once are spread over so long.
pub(super) const SPREAD: Duration = Duration::from_millis(250);
/// A stream younger than this is not replaced because somebody asks.
pub(super) const YOUNG: Duration = Duration::from_secs(3);

impl Table {
    /// The machine's network changed: every stream that this side made is made anew, and nothing that failed before counts. Not
    /// more than once in a second.
    pub(in crate::gateway) fn hurry(&mut self, now: Duration) {
        if self.hurried.is_some_and(|at| now < at + Duration::from_secs(1)) {
            return;
        }
        self.hurried = Some(now);
        self.gateways.forget();
        let tokens: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in tokens {
            self.call_soon(token, now);
        }
        self.call(now);
    }

    /// The stream to this peer does not carry what it should: another is made, if this side makes them, it is not young, and
    /// none failed to be made since it was.
    pub(in crate::gateway) fn redial(&mut self, token: TokenId, now: Duration) {
        let is_old = |peer: &Peer| peer.current.is_some_and(|current| current.since + YOUNG <= now);
        if self.peers.get(&token).is_some_and(|peer| is_old(peer) && peer.failures == 0) {
            self.call_soon(token, now);
            self.call(now);
        }
    }

    /// Makes every call that is due and allowed.
    pub(super) fn call(&mut self, now: Duration) {
        let Self { peers, gateways, actions, next_stream, .. } = self;
        for (token, peer) in peers {
            let is_due = peer.may_be_called() && peer.due.is_some_and(|due| due <= now);
            if let Some(place) = peer.place.as_ref().filter(|_| is_due)
                && gateways.take_turn(&place.domain, StreamId(*next_stream), now)
            {
                let stream = StreamId(*next_stream);
                *next_stream += 1;
                (peer.dialing, peer.due) = (Some(stream), None);
                actions.push_back(Action::Dial { peer: *token, stream, place: place.clone() });
            }
        }
    }

    pub(super) fn call_soon(&mut self, token: TokenId, now: Duration) {
        let spread = self.random_below(SPREAD);
        if let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.place.is_some()) {
            peer.failures = 0;
            peer.due = Some(peer.due.map_or(now + spread, |due| due.min(now + spread)));
        }
    }

    /// A call ended, one way or the other, and says something about its gateway.
    pub(super) fn reached(&mut self, token: TokenId, stream: StreamId, is_reached: bool, now: Duration) {
        let pause = FIRST_WAIT * 2 + self.random_below(FIRST_WAIT * 2);
        let Some(domain) = self.gateways.end_turn(stream, is_reached, now + pause) else { return };
        // It is back: all who waited for it call, but not in the same moment.
        let waiting: Vec<TokenId> = self
            .peers
            .iter()
            .filter(|(other, peer)| **other != token && peer.place.as_ref().is_some_and(|place| place.domain == domain))
            .map(|(other, _)| *other)
            .collect();
        for other in waiting {
            let spread = self.random_below(SPREAD);
            if let Some(peer) = self.peers.get_mut(&other) {
                peer.due = peer.due.map(|due| due.max(now + spread));
            }
        }
    }

    /// The peer was not reached, or its stream was of no use: it is called later, and later still each time.
    pub(super) fn failed(&mut self, token: TokenId, trouble: Trouble, now: Duration) {
        let random = self.random.number();
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let longest = FIRST_WAIT.saturating_mul(1 << peer.failures.min(8)).min(LONGEST_WAIT);
        peer.failures = peer.failures.saturating_add(1);
        peer.trouble = Some(trouble);
        let wait = longest / 2 + below(random, longest / 2);
        peer.due = peer.place.as_ref().map(|_| now + wait);
    }

    pub(super) fn redial_at(&mut self, now: Duration) -> Duration {
        let random = self.random.number();
        now + self.redial_after - below(random, self.redial_after / 4)
    }

    pub(super) fn random_below(&mut self, limit: Duration) -> Duration {
        let random = self.random.number();
        below(random, limit)
    }
}

/// Between zero and `limit`.
fn below(random: u64, limit: Duration) -> Duration {
    let share = (random >> 32) as u32;
    limit.mul_f64(f64::from(share) / f64::from(u32::MAX))
}
