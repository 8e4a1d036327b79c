//! Which stream leads to which peer, and when another is dialed: without I/O, clock or randomness of its own. What happens
//! goes in; it says what to do ([`Table::poll_action`]) and when to be woken ([`Table::poll_timeout`]).
//!
//! A peer has one stream, and a second one while it is replaced. The side that dials makes the new stream, and goes over to it
//! when the peer has proved itself there; a little later, when the other side has had time to go over as well, it ends its half of
//! the old one. The other side goes over when the dialing side has answered on the new stream: that one of its packets came by it
//! is not enough where there is a stream that works, since another host may have caught and brought it. Each side sends what it
//! still holds by the stream it leaves: nothing is lost.

mod dialing;
mod gateways;
mod own;
mod peer;
mod report;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_core::{ascending::Ascending, id::TokenId};
use mesh_tunnel::Proof;

pub(crate) use self::report::PeerReport;
use self::{
    dialing::JITTER,
    gateways::Gateways,
    own::Own,
    peer::{Current, Half, Initiation, Peer, Waiting},
};
use super::{
    StreamError, StreamId,
    place::{Domain, Place},
};
use crate::rng::Rng;

/// Streams on which no peer is proved: one makes room for each that is more.
const UNPROVED: usize = 64;
/// How long a stream that is to replace another may take to be proved.
const OVERLAP: Duration = Duration::from_secs(10);
/// Until the device initiates again on a stream that was dialed, at first and at most, as long as the peer has not answered on it: the
/// peer's agent may be there before its device is, and lose the first initiation. After [`INITIATE_FOR`] it ends the stream itself.
const INITIATE_AGAIN: Duration = Duration::from_millis(250);
const INITIATE_SELDOM: Duration = Duration::from_millis(500);
const INITIATE_FOR: Duration = OVERLAP;
/// Streams of one peer at once that want to replace another and on which the peer has not answered; the oldest makes room.
const CLAIMS: usize = 3;
/// How long the side that dialed keeps its half of a replaced stream open: an answer or two later the other side is over as well.
const HANDOVER: Duration = Duration::from_secs(2);
/// Replaced streams of one peer that stay for what is under way on them; more than one only where they follow each other fast.
const RETIRED: usize = 3;
/// How long a stream that was replaced stays for what is under way: at the side that dialed once its half is over, and at the
/// other, which lets go later.
const DRAIN: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(30);
/// A proved stream that lasted so long was no failure.
const LASTED: Duration = Duration::from_secs(5);

/// Whether this side dials: each side can tell by itself, and they agree. The one with the lower token dials, where both are reached through a
/// gateway; where only one is, the other.
#[must_use]
pub fn dials(own: TokenId, is_own_reached: bool, peer: TokenId, is_peer_reached: bool) -> bool {
    is_peer_reached && (!is_own_reached || own < peer)
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Dial the peer; the stream has this name from now on. Answered by `opened` or `dial_failed`.
    Dial { peer: TokenId, stream: StreamId, place: Place },
    /// Have the device send the peer something that proves who we are, by this stream.
    Initiate { peer: TokenId, stream: StreamId },
    /// There is still no stream to the peer, for this reason.
    Away { peer: TokenId, error: StreamError },
    /// Have the peer show that its stream still carries something: its gateway may be away, or have been.
    Ask(TokenId),
    /// Packets for the peer go by this stream, or by none, for that reason.
    Route { peer: TokenId, stream: Option<StreamId>, error: Option<StreamError> },
    /// Send what waits, then end this half.
    Finish(StreamId),
    /// Drop the stream, or the attempt to have it.
    Close(StreamId, StreamError),
}

/// Every peer's streams.
#[derive(Debug)]
pub(crate) struct Table {
    redial_after: Duration,
    peers: BTreeMap<TokenId, Peer>,
    gateways: Gateways,
    own: Option<Own>,
    /// Accepted, with no peer proved, the oldest first; whether they have said hello.
    unproved: BTreeMap<StreamId, bool>,
    next_stream: u64,
    rng: Rng,
    retried: Option<Duration>,
    actions: VecDeque<Action>,
}

impl Table {
    /// `redial_after`: a stream's age at which it is replaced, at the latest; `seed` is random.
    pub(crate) fn new(redial_after: Duration, seed: u64) -> Self {
        Self {
            redial_after,
            peers: BTreeMap::new(),
            gateways: Gateways::default(),
            own: None,
            unproved: BTreeMap::new(),
            next_stream: 1,
            rng: Rng::new(seed),
            retried: None,
            actions: VecDeque::new(),
        }
    }

    /// The gateway by which the two meet.
    pub(crate) fn domain(&self, peer: TokenId) -> Option<&Domain> {
        self.domain_of(self.peers.get(&peer)?)
    }

    /// The stream by which the peer is reached.
    pub(crate) fn current(&self, peer: TokenId) -> Option<StreamId> {
        Some(self.peers.get(&peer)?.current?.stream)
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Table::handle_timeout`] is next to be called, at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let of_peer = |peer: &Peer| {
            let dial = peer.due.filter(|_| peer.may_be_dialed()).zip(peer.place.as_ref());
            let dial = dial.and_then(|(due, place)| self.gateways.allows_at(&place.domain, due));
            let streams = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired).map(|waiting| waiting.until);
            let initiation = peer.initiation.map(|initiation| initiation.due);
            dial.into_iter().chain(streams).chain(initiation).min()
        };
        self.peers.values().filter_map(of_peer).chain(self.own_due()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        let Self { peers, actions, .. } = self;
        for (token, peer) in peers {
            if let Some(stream) = peer.initiate_again(now) {
                actions.push_back(Action::Initiate { peer: *token, stream });
            }
            for late in peer.claims.extract_if(.., |waiting| waiting.until <= now) {
                actions.push_back(Action::Close(late.stream, StreamError::Unproved));
            }
            for old in peer.retired.iter_mut().filter(|old| old.half == Half::Ending && old.until <= now) {
                (old.half, old.until) = (Half::Over, now + DRAIN);
                actions.push_back(Action::Finish(old.stream));
            }
            for late in peer.retired.extract_if(.., |waiting| waiting.until <= now) {
                actions.push_back(Action::Close(late.stream, StreamError::Replaced));
            }
        }
        let late: Vec<TokenId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.candidate.is_some_and(|waiting| waiting.until <= now))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            if let Some(candidate) = self.peers.get_mut(&token).and_then(|peer| peer.candidate.take()) {
                self.actions.push_back(Action::Close(candidate.stream, StreamError::Unproved));
                self.failed(token, StreamError::Unproved, now);
            }
        }
        self.dial(now);
    }

    /// These are the peers, ascending; those with a place are dialed there, the others dial. A peer that is not among them loses its
    /// streams.
    pub(crate) fn set_peers(&mut self, wanted: Vec<(TokenId, Option<Place>)>, now: Duration) {
        let mut listed = Ascending::new(wanted.iter().map(|(token, _)| (*token, ())));
        let gone: Vec<TokenId> = self.peers.keys().filter(|token| listed.find(**token).is_none()).copied().collect();
        for token in gone {
            self.remove(token);
        }
        for (token, place) in wanted {
            let jitter = self.rng.below(JITTER);
            let peer = self.peers.entry(token).or_default();
            if peer.place != place {
                peer.due = place.as_ref().map(|_| now + jitter);
                (peer.place, peer.failures) = (place, 0);
                let candidate = peer.candidate.take().map(|waiting| waiting.stream);
                let dialing = peer.dialing.take().inspect(|dial| self.gateways.cancel(*dial));
                for stream in candidate.into_iter().chain(dialing) {
                    self.actions.push_back(Action::Close(stream, StreamError::Replaced));
                }
            }
        }
        self.dial(now);
    }

    /// The other side dialed, and has said nothing yet. The stream's name.
    pub(crate) fn accepted(&mut self) -> StreamId {
        if self.unproved.len() >= UNPROVED
            && let Some(other) = self.least_wanted()
        {
            self.unproved.remove(&other);
            self.actions.push_back(Action::Close(other, StreamError::Crowded));
        }
        let stream = self.name_stream();
        self.unproved.insert(stream, false);
        stream
    }

    /// The other end of a stream that was accepted said hello.
    pub(crate) fn hello_received(&mut self, stream: StreamId) {
        if let Some(has_hello) = self.unproved.get_mut(&stream) {
            *has_hello = true;
        }
    }

    /// Which stream makes room for a new one: the oldest of those that said no hello, which costs nothing, while they are half of all
    /// or more; else any of the others, so that a host that fills the places cannot count on keeping them.
    fn least_wanted(&mut self) -> Option<StreamId> {
        let of = |wanted: bool| self.unproved.iter().filter(move |(_, greeted)| **greeted == wanted).map(|(id, _)| *id);
        let greeted: Vec<StreamId> = of(true).collect();
        if greeted.len() * 2 <= self.unproved.len() {
            return of(false).next();
        }
        let share = self.rng.next_u64() % greeted.len() as u64;
        greeted.get(usize::try_from(share).unwrap_or_default()).copied()
    }

    /// The dial was answered by an agent.
    pub(crate) fn opened(&mut self, token: TokenId, stream: StreamId, now: Duration) {
        self.dialed(stream, None, now);
        if self.own_ended(stream, true, now) {
            self.actions.push_back(Action::Close(stream, StreamError::Stopped));
            return self.dial(now);
        }
        let redial = self.redial_at(now);
        let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.dialing == Some(stream)) else {
            return self.actions.push_back(Action::Close(stream, StreamError::Stranger));
        };
        peer.dialing = None;
        peer.due = Some(redial);
        let (due, until) = (now + INITIATE_AGAIN, now + INITIATE_FOR);
        peer.initiation = Some(Initiation { stream, due, pause: 2 * INITIATE_AGAIN, until });
        if peer.current.is_some() {
            peer.candidate = Some(Waiting { stream, until: now + OVERLAP, half: Half::Open });
        } else {
            peer.current = Some(Current { stream, since: now, is_proved: false });
            self.actions.push_back(Action::Route { peer: token, stream: Some(stream), error: None });
        }
        self.actions.push_back(Action::Initiate { peer: token, stream });
        self.dial(now);
    }

    /// The dial failed, before the gateway was reached or behind it.
    pub(crate) fn dial_failed(
        &mut self,
        token: TokenId,
        stream: StreamId,
        error: StreamError,
        is_reached: bool,
        now: Duration,
    ) {
        self.dialed(stream, (!is_reached).then(|| error.clone()), now);
        self.own_ended(stream, is_reached, now);
        if let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.dialing == Some(stream)) {
            peer.dialing = None;
            if is_reached {
                self.failed(token, error.clone(), now);
                self.tell_away(token, error);
            } else {
                // It is the gateway's failure: the peer is dialed as soon as the gateway is there.
                peer.error = Some(error);
                peer.due = Some(now);
            }
        }
        self.dial(now);
    }

    /// A packet that came by the stream was authenticated as the peer's.
    pub(crate) fn proved(&mut self, stream: StreamId, token: TokenId, proof: Proof, now: Duration) {
        let is_accepted = self.unproved.remove(&stream).is_some();
        let redial = self.redial_at(now);
        let Some(peer) = self.peers.get_mut(&token) else {
            self.ended(stream, StreamError::Stranger, now);
            return self.actions.push_back(Action::Close(stream, StreamError::Stranger));
        };
        if let Some(current) = peer.current.as_mut().filter(|current| current.stream == stream) {
            current.is_proved = true;
            peer.error = None;
        } else if peer.candidate.take_if(|waiting| waiting.stream == stream).is_some() {
            self.go_over(token, stream, true, now);
            if let Some(peer) = self.peers.get_mut(&token) {
                (peer.due, peer.failures) = (Some(redial), 0);
            }
        } else if is_accepted || peer.claims.iter().any(|claim| claim.stream == stream) {
            self.claim(token, stream, proof, now);
        } else if peer.retired.iter().all(|waiting| waiting.stream != stream) {
            // Dialed as one peer, proved by another.
            self.ended(stream, StreamError::Stranger, now);
            self.actions.push_back(Action::Close(stream, StreamError::Stranger));
        }
    }

    /// The peer dialed, or another host with a packet of the peer's.
    fn claim(&mut self, token: TokenId, stream: StreamId, proof: Proof, now: Duration) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let is_new = peer.claims.extract_if(.., |claim| claim.stream == stream).count() == 0;
        if peer.place.is_some() && peer.current.is_some() {
            // It is this side that dials; for a moment the two do not agree on that.
            return self.actions.push_back(Action::Close(stream, StreamError::Replaced));
        }
        if proof == Proof::RoundTrip || peer.current.is_none_or(|current| !current.is_proved) {
            self.go_over(token, stream, false, now);
        } else {
            peer.claims.push(Waiting { stream, until: now + OVERLAP, half: Half::Open });
            if peer.claims.len() > CLAIMS {
                let oldest = peer.claims.remove(0);
                self.actions.push_back(Action::Close(oldest.stream, StreamError::Crowded));
            }
        }
        if is_new {
            self.actions.push_back(Action::Initiate { peer: token, stream });
        }
    }

    /// The stream is no more.
    pub(crate) fn ended(&mut self, stream: StreamId, error: StreamError, now: Duration) {
        self.unproved.remove(&stream);
        let uses = |peer: &Peer| {
            let mut waiting = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired);
            peer.current.is_some_and(|current| current.stream == stream)
                || waiting.any(|waiting| waiting.stream == stream)
        };
        let Some((token, peer)) = self.peers.iter_mut().find(|(_, peer)| uses(peer)) else { return };
        let token = *token;
        let others = peer.claims.len() + peer.retired.len();
        peer.claims.retain(|waiting| waiting.stream != stream);
        peer.retired.retain(|waiting| waiting.stream != stream);
        if peer.claims.len() + peer.retired.len() < others {
            return;
        }
        if peer.candidate.take_if(|waiting| waiting.stream == stream).is_some() {
            self.failed(token, error, now);
            return self.dial(now);
        }
        let Some(ended) = peer.current.take() else { return };
        let newer = peer.candidate.take().or_else(|| peer.claims.pop());
        // One that was replaced may still be good.
        let is_old = newer.is_none();
        let other = newer.or_else(|| peer.retired.pop_if(|waiting| waiting.half != Half::Over));
        if let Some(other) = other {
            peer.current = Some(Current { stream: other.stream, since: now, is_proved: false });
            self.actions.push_back(Action::Route { peer: token, stream: Some(other.stream), error: None });
            if is_old {
                self.failed(token, error, now);
            }
            return;
        }
        let gateway = self.peers.get(&token).and_then(|peer| self.gateways.away(self.domain_of(peer)?));
        let error = gateway.cloned().unwrap_or(error);
        self.actions.push_back(Action::Route { peer: token, stream: None, error: Some(error.clone()) });
        if ended.is_proved && now.saturating_sub(ended.since) >= LASTED {
            let jitter = self.rng.below(JITTER);
            if let Some(peer) = self.peers.get_mut(&token) {
                (peer.failures, peer.error) = (0, Some(error));
                peer.due = peer.place.as_ref().map(|_| now + jitter);
            }
        } else {
            self.failed(token, error, now);
        }
        self.dial(now);
    }

    /// The peer is proved on another stream than the one in use.
    fn go_over(&mut self, token: TokenId, stream: StreamId, dialed: bool, now: Duration) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let before = peer.current.replace(Current { stream, since: now, is_proved: true });
        peer.error = None;
        self.actions.push_back(Action::Route { peer: token, stream: Some(stream), error: None });
        let Some(before) = before else { return };
        let (half, stays) = if dialed { (Half::Ending, HANDOVER) } else { (Half::Open, LINGER) };
        peer.retired.push(Waiting { stream: before.stream, until: now + stays, half });
        if peer.retired.len() > RETIRED {
            let oldest = peer.retired.remove(0);
            self.actions.push_back(Action::Close(oldest.stream, StreamError::Replaced));
        }
    }

    fn remove(&mut self, token: TokenId) {
        let Some(peer) = self.peers.remove(&token) else { return };
        if peer.current.is_some() {
            let error = Some(StreamError::Stranger);
            self.actions.push_back(Action::Route { peer: token, stream: None, error });
        }
        let waiting = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired).map(|waiting| waiting.stream);
        let dialing = peer.dialing.inspect(|dial| self.gateways.cancel(*dial));
        for stream in peer.current.map(|current| current.stream).into_iter().chain(waiting).chain(dialing) {
            self.actions.push_back(Action::Close(stream, StreamError::Stranger));
        }
    }

    fn name_stream(&mut self) -> StreamId {
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        stream
    }
}

#[cfg(test)]
mod tests;
