//! When each peer is dialed.

use std::time::Duration;

use mesh_core::id::TokenId;

use super::{Action, Peer, Table, gateways::Change};
use crate::{
    rng::Rng,
    stream::{Domain, StreamError, StreamId},
};

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

    /// Nothing comes by this gateway any more, although a peer behind it was asked: all of them are, and one dial tells whether the gateway
    /// is there, unless one is under way.
    pub(crate) fn doubt(&mut self, domain: &Domain, now: Duration) {
        self.ask_behind(domain);
        if self.gateways.is_dialed(domain) {
            return;
        }
        let is_at = |peer: &Peer| peer.place.as_ref().is_some_and(|place| place.domain == *domain);
        match self.peers.iter().find(|(_, peer)| is_at(peer) && peer.may_be_dialed()) {
            Some((token, _)) => self.dial_soon(*token, now),
            None => self.doubt_own(domain, now),
        }
        self.dial(now);
    }

    /// Dials every peer that is due and allowed, and this node itself where nothing else tells whether its gateway is there.
    pub(crate) fn dial(&mut self, now: Duration) {
        self.dial_own(now);
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

    /// A dial ended, and says something about its gateway: `error` if that was not reached.
    pub(super) fn dialed(&mut self, stream: StreamId, error: Option<StreamError>, now: Duration) {
        let pause = FIRST_WAIT * 2 + self.rng.below(FIRST_WAIT * 2);
        let Some((domain, change)) = self.gateways.end_dial(stream, error, now + pause) else { return };
        for token in self.behind(&domain) {
            match &change {
                Change::Away(error) => self.tell_away(token, error.clone()),
                Change::Back => self.gateway_is_back(token, now),
            }
        }
        // Streams that are open may be over, and neither side has noticed.
        self.ask_behind(&domain);
    }

    fn behind(&self, domain: &Domain) -> Vec<TokenId> {
        let is_behind = |peer: &Peer| self.domain_of(peer) == Some(domain);
        self.peers.iter().filter(|(_, peer)| is_behind(peer)).map(|(token, _)| *token).collect()
    }

    fn ask_behind(&mut self, domain: &Domain) {
        let has_stream = |token: &TokenId| self.current(*token).is_some();
        let asked: Vec<_> = self.behind(domain).into_iter().filter(has_stream).map(Action::Ask).collect();
        self.actions.extend(asked);
    }

    /// All peers that waited for their gateway are dialed, but not in the same moment. Those that dial this side are not there yet.
    fn gateway_is_back(&mut self, token: TokenId, now: Duration) {
        let jitter = self.rng.below(JITTER);
        let Some(peer) = self.peers.get_mut(&token) else { return };
        match peer.place {
            Some(_) => peer.due = peer.due.map(|due| due.max(now + jitter)),
            None => self.tell_away(token, StreamError::NotDialed),
        }
    }

    /// Why there still is no stream to the peer, if there is none.
    pub(super) fn tell_away(&mut self, token: TokenId, error: StreamError) {
        if let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.current.is_none()) {
            peer.error = Some(error.clone());
            self.actions.push_back(Action::Away { peer: token, error });
        }
    }

    /// The peer was not reached, or its stream was of no use: it is dialed later, and later still each time.
    pub(crate) fn failed(&mut self, token: TokenId, error: StreamError, now: Duration) {
        let Self { peers, rng, .. } = self;
        let Some(peer) = peers.get_mut(&token) else { return };
        let wait = backoff(peer.failures, rng);
        peer.failures = peer.failures.saturating_add(1);
        peer.error = Some(error);
        peer.due = peer.place.as_ref().map(|_| now + wait);
    }

    pub(super) fn redial_at(&mut self, now: Duration) -> Duration {
        now + self.redial_after - self.rng.below(self.redial_after / 4)
    }
}

/// How long to wait after so many failures.
pub(super) fn backoff(failures: u32, rng: &mut Rng) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << failures.min(8)).min(LONGEST_WAIT);
    longest / 2 + rng.below(longest / 2)
}
