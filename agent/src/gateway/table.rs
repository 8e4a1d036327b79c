//! Which stream leads to which peer, and when another is called: without I/O, clock or randomness of its own. It is told what
//! happens, and says what to do ([`Table::poll_action`]) and when to be woken ([`Table::poll_timeout`]).
//!
//! A peer has one stream, and a second one while it is replaced. The side that called makes the new stream, and goes over to it
//! when the peer has proved itself there; a little later, when the other side has had time to go over as well, it ends its half of
//! the old one. The other side goes over when the caller has answered on the new stream: that a packet of the caller's came by it
//! is not enough where there is a stream that works, since somebody else may have caught and brought it. Each sends what it
//! still holds by the stream it leaves: nothing is lost.

mod calls;
mod reach;
mod report;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_core::{id::TokenId, spread::Spread};

pub use self::report::PeerReport;
use self::{calls::SPREAD, reach::Gateways};
use super::{
    Trouble,
    name::Place,
    stream::{Proof, StreamId},
};

/// Streams on which nobody has proved anything: one makes room for each that is more.
const UNPROVED: usize = 64;
/// How long a stream that is to replace another may take to be proved.
const OVERLAP: Duration = Duration::from_secs(10);
/// Until whoever was called is greeted again, at first and at most, as long as it has not answered on the stream: its agent may be there
/// before its device is, and lose the first greeting. After so long it ends the stream itself.
const GREET_AGAIN: Duration = Duration::from_millis(250);
const GREET_SELDOM: Duration = Duration::from_millis(500);
const GREET_FOR: Duration = OVERLAP;
/// Streams of one peer at once that want to replace another and on which the peer has not answered; the oldest makes room.
const CLAIMS: usize = 3;
/// How long the side that called keeps its half of a replaced stream open: an answer or two later the other side is over as well.
const HANDOVER: Duration = Duration::from_secs(2);
/// Replaced streams of one peer that stay for what is under way on them; more than one only where they follow each other fast.
const RETIRED: usize = 3;
/// How long a stream that was replaced stays for what is under way: at the side that called once its half is over, and at the
/// other, which lets go later.
const DRAIN: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(30);
/// A proved stream that lasted so long was no failure.
const LASTED: Duration = Duration::from_secs(5);
/// Who calls: each side can tell by itself, and they agree. The one with the lower token, where both are reached through a
/// gateway; where only one is, the other.
#[must_use]
pub fn dials(own: TokenId, is_own_reached: bool, peer: TokenId, is_peer_reached: bool) -> bool {
    is_peer_reached && (!is_own_reached || own < peer)
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Call the peer; the stream has this name from now on. Answered by `opened` or `dial_failed`.
    Dial { peer: TokenId, stream: StreamId, place: Place },
    /// Have the device send the peer something that proves who we are, by this stream.
    Greet { peer: TokenId, stream: StreamId },
    /// Packets for the peer go by this stream, or by none, for that reason.
    Route { peer: TokenId, stream: Option<StreamId>, trouble: Option<Trouble> },
    /// Send what waits, then end this half.
    Finish(StreamId),
    /// Drop the stream, or the call for it.
    Close(StreamId, Trouble),
}

#[derive(Debug)]
pub(super) struct Table {
    redial_after: Duration,
    peers: BTreeMap<TokenId, Peer>,
    gateways: Gateways,
    /// Accepted, and nobody has proved anything, the oldest first; whether they have said hello.
    unproved: BTreeMap<StreamId, bool>,
    next_stream: u64,
    random: Spread,
    hurried: Option<Duration>,
    actions: VecDeque<Action>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Where this side calls it, if it is this side that does.
    place: Option<Place>,
    current: Option<Current>,
    /// Called to replace `current`.
    candidate: Option<Waiting>,
    /// Called here while there was one that works, and brought a packet of the peer's that may have been caught elsewhere: replace
    /// `current` when the peer answers on them. Oldest first.
    claims: Vec<Waiting>,
    /// Were replaced, oldest first.
    retired: Vec<Waiting>,
    dialing: Option<StreamId>,
    /// Called, and greeted until the peer answers.
    greeting: Option<Greeting>,
    /// When it is called next.
    due: Option<Duration>,
    failures: u32,
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    stream: StreamId,
    since: Duration,
    is_proved: bool,
}

#[derive(Debug, Clone, Copy)]
struct Greeting {
    stream: StreamId,
    due: Duration,
    pause: Duration,
    until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    stream: StreamId,
    until: Duration,
    half: Half,
}

/// Our half of a stream that is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Open for as long as the stream is.
    Open,
    /// Is ended when its time has come.
    Ending,
    /// Was ended.
    Over,
}

impl Peer {
    const fn may_be_called(&self) -> bool {
        self.dialing.is_none() && self.candidate.is_none()
    }

    /// The peer has not answered on this stream, on which it was called.
    fn is_unanswered(&self, stream: StreamId) -> bool {
        self.candidate.is_some_and(|waiting| waiting.stream == stream)
            || self.current.is_some_and(|current| current.stream == stream && !current.is_proved)
    }

    /// The stream on which the peer is to be greeted again.
    fn greet_again(&mut self, now: Duration) -> Option<StreamId> {
        let greeting = self.greeting.take_if(|greeting| greeting.due <= now)?;
        let Greeting { stream, pause, until, .. } = greeting;
        (now < until && self.is_unanswered(stream)).then(|| {
            self.greeting = Some(Greeting { stream, due: now + pause, pause: GREET_SELDOM.min(pause * 2), until });
            stream
        })
    }
}

impl Table {
    /// `redial_after`: a stream's age at which it is replaced, at the latest; `seed` is random.
    pub(super) fn new(redial_after: Duration, seed: u64) -> Self {
        Self {
            redial_after,
            peers: BTreeMap::new(),
            gateways: Gateways::default(),
            unproved: BTreeMap::new(),
            next_stream: 1,
            random: Spread::new(seed),
            hurried: None,
            actions: VecDeque::new(),
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Table::handle_timeout`] is next to be called, at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let of_peer = |peer: &Peer| {
            let call = peer.due.filter(|_| peer.may_be_called()).zip(peer.place.as_ref());
            let call = call.and_then(|(due, place)| self.gateways.allows_at(&place.domain, due));
            let streams = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired).map(|waiting| waiting.until);
            let greeting = peer.greeting.map(|greeting| greeting.due);
            call.into_iter().chain(streams).chain(greeting).min()
        };
        self.peers.values().filter_map(of_peer).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        let Self { peers, actions, .. } = self;
        for (token, peer) in peers {
            if let Some(stream) = peer.greet_again(now) {
                actions.push_back(Action::Greet { peer: *token, stream });
            }
            for late in peer.claims.extract_if(.., |waiting| waiting.until <= now) {
                actions.push_back(Action::Close(late.stream, Trouble::Unproved));
            }
            for old in peer.retired.iter_mut().filter(|old| old.half == Half::Ending && old.until <= now) {
                (old.half, old.until) = (Half::Over, now + DRAIN);
                actions.push_back(Action::Finish(old.stream));
            }
            for late in peer.retired.extract_if(.., |waiting| waiting.until <= now) {
                actions.push_back(Action::Close(late.stream, Trouble::Replaced));
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
                self.actions.push_back(Action::Close(candidate.stream, Trouble::Unproved));
                self.failed(token, Trouble::Unproved, now);
            }
        }
        self.call(now);
    }

    /// These are the peers; those with a place are called there, the others call. Whoever is not among them loses its streams.
    pub(super) fn set_peers(&mut self, wanted: BTreeMap<TokenId, Option<Place>>, now: Duration) {
        let gone: Vec<TokenId> = self.peers.keys().filter(|token| !wanted.contains_key(token)).copied().collect();
        for token in gone {
            self.remove(token);
        }
        for (token, place) in wanted {
            let spread = self.random_below(SPREAD);
            let peer = self.peers.entry(token).or_default();
            if peer.place != place {
                peer.due = place.as_ref().map(|_| now + spread);
                (peer.place, peer.failures) = (place, 0);
                let candidate = peer.candidate.take().map(|waiting| waiting.stream);
                let dialing = peer.dialing.take().inspect(|call| self.gateways.cancel(*call));
                for stream in candidate.into_iter().chain(dialing) {
                    self.actions.push_back(Action::Close(stream, Trouble::Replaced));
                }
            }
        }
        self.call(now);
    }

    /// The other side called, and has said nothing yet. The stream's name.
    pub(super) fn accepted(&mut self) -> StreamId {
        if self.unproved.len() >= UNPROVED
            && let Some(other) = self.least_wanted()
        {
            self.unproved.remove(&other);
            self.actions.push_back(Action::Close(other, Trouble::Crowded));
        }
        let stream = self.name_stream();
        self.unproved.insert(stream, false);
        stream
    }

    /// Whoever called said hello.
    pub(super) fn greeted(&mut self, stream: StreamId) {
        if let Some(has_greeted) = self.unproved.get_mut(&stream) {
            *has_greeted = true;
        }
    }

    /// Who makes room for one that calls: the oldest of those that said no hello, which costs nothing, while they are half of all
    /// or more; else any of the others, so that nobody who fills the places can count on keeping them.
    fn least_wanted(&mut self) -> Option<StreamId> {
        let of = |wanted: bool| self.unproved.iter().filter(move |(_, greeted)| **greeted == wanted).map(|(id, _)| *id);
        let greeted: Vec<StreamId> = of(true).collect();
        if greeted.len() * 2 <= self.unproved.len() {
            return of(false).next();
        }
        let share = self.random.number() % greeted.len() as u64;
        greeted.get(usize::try_from(share).unwrap_or_default()).copied()
    }

    /// The call was answered by an agent.
    pub(super) fn opened(&mut self, token: TokenId, stream: StreamId, now: Duration) {
        self.reached(token, stream, true, now);
        let redial = self.redial_at(now);
        let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.dialing == Some(stream)) else {
            return self.actions.push_back(Action::Close(stream, Trouble::Stranger));
        };
        peer.dialing = None;
        peer.due = Some(redial);
        let (due, until) = (now + GREET_AGAIN, now + GREET_FOR);
        peer.greeting = Some(Greeting { stream, due, pause: 2 * GREET_AGAIN, until });
        if peer.current.is_some() {
            peer.candidate = Some(Waiting { stream, until: now + OVERLAP, half: Half::Open });
        } else {
            peer.current = Some(Current { stream, since: now, is_proved: false });
            self.actions.push_back(Action::Route { peer: token, stream: Some(stream), trouble: None });
        }
        self.actions.push_back(Action::Greet { peer: token, stream });
        self.call(now);
    }

    /// The call failed, before the gateway was reached or behind it.
    pub(super) fn dial_failed(
        &mut self,
        token: TokenId,
        stream: StreamId,
        trouble: Trouble,
        is_reached: bool,
        now: Duration,
    ) {
        self.reached(token, stream, is_reached, now);
        if let Some(peer) = self.peers.get_mut(&token).filter(|peer| peer.dialing == Some(stream)) {
            peer.dialing = None;
            if is_reached {
                self.failed(token, trouble, now);
            } else {
                // It is the gateway's failure: the peer is called as soon as the gateway is there.
                peer.trouble = Some(trouble);
                peer.due = Some(now);
            }
        }
        self.call(now);
    }

    /// A packet that came by the stream was authenticated as the peer's.
    pub(super) fn proved(&mut self, stream: StreamId, token: TokenId, proof: Proof, now: Duration) {
        let is_accepted = self.unproved.remove(&stream).is_some();
        let redial = self.redial_at(now);
        let Some(peer) = self.peers.get_mut(&token) else {
            self.ended(stream, Trouble::Stranger, now);
            return self.actions.push_back(Action::Close(stream, Trouble::Stranger));
        };
        if let Some(current) = peer.current.as_mut().filter(|current| current.stream == stream) {
            current.is_proved = true;
            peer.trouble = None;
        } else if peer.candidate.take_if(|waiting| waiting.stream == stream).is_some() {
            self.go_over(token, stream, true, now);
            if let Some(peer) = self.peers.get_mut(&token) {
                (peer.due, peer.failures) = (Some(redial), 0);
            }
        } else if is_accepted || peer.claims.iter().any(|claim| claim.stream == stream) {
            self.claim(token, stream, proof, now);
        } else if peer.retired.iter().all(|waiting| waiting.stream != stream) {
            // Called as one peer, proved by another.
            self.ended(stream, Trouble::Stranger, now);
            self.actions.push_back(Action::Close(stream, Trouble::Stranger));
        }
    }

    /// The peer called, or somebody with a packet of the peer's.
    fn claim(&mut self, token: TokenId, stream: StreamId, proof: Proof, now: Duration) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let is_new = peer.claims.extract_if(.., |claim| claim.stream == stream).count() == 0;
        if peer.place.is_some() && peer.current.is_some() {
            // It is this side that calls; for a moment the two do not agree who does.
            return self.actions.push_back(Action::Close(stream, Trouble::Replaced));
        }
        if proof == Proof::RoundTrip || peer.current.is_none_or(|current| !current.is_proved) {
            self.go_over(token, stream, false, now);
        } else {
            peer.claims.push(Waiting { stream, until: now + OVERLAP, half: Half::Open });
            if peer.claims.len() > CLAIMS {
                let oldest = peer.claims.remove(0);
                self.actions.push_back(Action::Close(oldest.stream, Trouble::Crowded));
            }
        }
        if is_new {
            self.actions.push_back(Action::Greet { peer: token, stream });
        }
    }

    /// The stream is no more.
    pub(super) fn ended(&mut self, stream: StreamId, trouble: Trouble, now: Duration) {
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
            self.failed(token, trouble, now);
            return self.call(now);
        }
        let Some(ended) = peer.current.take() else { return };
        let newer = peer.candidate.take().or_else(|| peer.claims.pop());
        // One that was replaced may still be good.
        let is_old = newer.is_none();
        let other = newer.or_else(|| peer.retired.pop_if(|waiting| waiting.half != Half::Over));
        if let Some(other) = other {
            peer.current = Some(Current { stream: other.stream, since: now, is_proved: false });
            self.actions.push_back(Action::Route { peer: token, stream: Some(other.stream), trouble: None });
            if is_old {
                self.failed(token, trouble, now);
            }
            return;
        }
        self.actions.push_back(Action::Route { peer: token, stream: None, trouble: Some(trouble.clone()) });
        if ended.is_proved && now.saturating_sub(ended.since) >= LASTED {
            let spread = self.random_below(SPREAD);
            if let Some(peer) = self.peers.get_mut(&token) {
                (peer.failures, peer.trouble) = (0, Some(trouble));
                peer.due = peer.place.as_ref().map(|_| now + spread);
            }
        } else {
            self.failed(token, trouble, now);
        }
        self.call(now);
    }

    /// The peer is proved on another stream than the one in use.
    fn go_over(&mut self, token: TokenId, stream: StreamId, dialed: bool, now: Duration) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let before = peer.current.replace(Current { stream, since: now, is_proved: true });
        peer.trouble = None;
        self.actions.push_back(Action::Route { peer: token, stream: Some(stream), trouble: None });
        let Some(before) = before else { return };
        let (half, stays) = if dialed { (Half::Ending, HANDOVER) } else { (Half::Open, LINGER) };
        peer.retired.push(Waiting { stream: before.stream, until: now + stays, half });
        if peer.retired.len() > RETIRED {
            let oldest = peer.retired.remove(0);
            self.actions.push_back(Action::Close(oldest.stream, Trouble::Replaced));
        }
    }

    fn remove(&mut self, token: TokenId) {
        let Some(peer) = self.peers.remove(&token) else { return };
        if peer.current.is_some() {
            let trouble = Some(Trouble::Stranger);
            self.actions.push_back(Action::Route { peer: token, stream: None, trouble });
        }
        let waiting = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired).map(|waiting| waiting.stream);
        let dialing = peer.dialing.inspect(|call| self.gateways.cancel(*call));
        for stream in peer.current.map(|current| current.stream).into_iter().chain(waiting).chain(dialing) {
            self.actions.push_back(Action::Close(stream, Trouble::Stranger));
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
