//! The sessions with one peer, and the handshakes that may become one: which one seals, which ones still open, and when
//! they end (paper, section 6). A silent peer costs next to nothing: what cannot be used any more is dropped.

use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::endpoint::Endpoint;
use crate::indices::{Indices, SESSIONS};
use crate::key::{PresharedKey, PublicKey};
use crate::noise::{
    AuthenticInitiation, Cookie, FirstMac, INITIATION_LEN, Identity, RESPONSE_LEN, SentInitiation, Session, Timestamp,
};
use crate::path::Carrier;
use crate::timers::{REJECT_AFTER, REKEY_ATTEMPT, REKEY_TIMEOUT};

/// Initiations to the endpoint, and as many by streams, that may be answered at the same time: the first tries come faster than
/// an answer from far away.
const MAX_PENDING: usize = 4;

/// The same for those that went elsewhere than where the peer is taken to be, so that none of them takes the place of those that go
/// where they always go.
const MAX_PENDING_CANDIDATES: usize = 8;

/// Responses to one initiation that are worked on whatever else comes in. One is authentic; who sees the initiation can forge others,
/// and must not have work done for as many as it likes.
const ADMITTED: u8 = 8;

/// Sessions that a peer asked for and has not yet shown to have. It asks again before it has our answer where that comes
/// from far away.
const UNCONFIRMED: usize = 4;

/// Sessions that may be heard in beside the one that seals. Where answers come from far away, as many as each side may ask
/// for begin within a moment; and where both asked, the peer seals in another than we do, until it hears of the next.
const FORMER: usize = 2 * MAX_PENDING;

/// Where an initiation goes, and it goes nowhere else: so the answer proves that the peer is there.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// To the address where the peer is taken to be.
    Endpoint(SocketAddr),
    /// To an address that is to be proved.
    Candidate(SocketAddr),
    /// By this stream, which may be over before the answer comes.
    Stream(Weak<dyn Carrier>),
}

/// A session that has just begun to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    /// When its handshake was.
    pub(crate) since: Instant,
    /// Whether we asked for it.
    pub(crate) initiator: bool,
}

impl Target {
    pub(crate) const fn is_candidate(&self) -> bool {
        matches!(self, Self::Candidate(_))
    }

    const fn is_endpoint(&self) -> bool {
        matches!(self, Self::Endpoint(_))
    }

    const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Whether both go to one place.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stream(one), Self::Stream(other)) => one.ptr_eq(other),
            (Self::Endpoint(one) | Self::Candidate(one), Self::Endpoint(other) | Self::Candidate(other)) => {
                one == other
            }
            _ => false,
        }
    }

    /// Whether it went by this stream.
    pub(crate) fn is_by(&self, carrier: &Arc<dyn Carrier>) -> bool {
        matches!(self, Self::Stream(stream) if stream.ptr_eq(&Arc::downgrade(carrier)))
    }
}

/// An answer to an initiation of ours.
#[derive(Clone, Debug)]
pub(crate) struct Completed {
    /// Where its session is the one that seals now.
    pub(crate) began: Option<Began>,
    /// Where the initiation went.
    pub(crate) target: Target,
    /// How long the answer took.
    pub(crate) round_trip: Duration,
    /// When the last initiation went to the same place after this one, where its answer may still come.
    pub(crate) repeated: Option<Instant>,
}

/// A session that the peer has shown to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// Where it is the one that seals now.
    pub(crate) began: Option<Began>,
    /// Where its answer went, if that is known.
    pub(crate) proves: Option<Endpoint>,
}

struct HeldSession {
    session: Arc<Session>,
    since: Instant,
    /// Whether the peer has shown to have it: only then it seals.
    confirmed: bool,
    /// Where the answer went, if that is what its use proves. Reported once.
    proves: Option<Endpoint>,
    /// The first MAC of the answer that began it.
    first_mac: FirstMac,
}

impl HeldSession {
    fn ends(&self) -> Instant {
        self.since + REJECT_AFTER
    }
}

struct PendingHandshake {
    /// In a place of its own: a list leaves copies of what it moves, and here these would be secrets.
    offer: Box<SentInitiation>,
    at: Instant,
    target: Target,
    /// A later one was answered before: the peer may not know the session of this one any more.
    overtaken: bool,
    /// How many responses to it were let in.
    admitted: u8,
}

/// The sessions with one peer.
pub(crate) struct Sessions {
    slot: u32,
    /// The number of the session of the last index.
    next: u16,
    indices: Arc<Indices>,
    /// In the order of their handshakes.
    held: Vec<HeldSession>,
    /// In the order in which they were sent.
    pending: Vec<PendingHandshake>,
    /// Of the last initiation that was answered: none that is as old counts (paper, section 5.1).
    last_initiation: Option<Timestamp>,
    cookie: Option<Box<Cookie>>,
}

impl Sessions {
    /// `slot` is the peer's own while it exists; `indices` are the device's.
    pub(crate) const fn new(slot: u32, indices: Arc<Indices>) -> Self {
        Self { slot, next: 0, indices, held: Vec::new(), pending: Vec::new(), last_initiation: None, cookie: None }
    }

    /// An initiation. `None` where none can be made.
    pub(crate) fn initiate(
        &mut self,
        identity: &Identity,
        peer: &PublicKey,
        target: Target,
        now: Instant,
        wall_clock: SystemTime,
    ) -> Option<[u8; INITIATION_LEN]> {
        let (index, mut message) = (self.new_index(), [0; INITIATION_LEN]);
        let timestamp = identity.timestamp(wall_clock);
        let offer = SentInitiation::new(identity, peer, index, timestamp, self.cookie(now), &mut message)?;
        let most = if target.is_candidate() { MAX_PENDING_CANDIDATES } else { MAX_PENDING };
        let kind = mem::discriminant(&target);
        let mut alike =
            self.pending.iter().enumerate().filter(|(_, pending)| mem::discriminant(&pending.target) == kind);
        if let Some((oldest, _)) = alike.next()
            && alike.count() + 1 == most
        {
            self.pending.remove(oldest);
        }
        self.pending.push(PendingHandshake { offer, at: now, target, overtaken: false, admitted: 0 });
        Some(message)
    }

    /// Writes the answer to an initiation; `None` where it is a replay. `proves` is where it goes, if using the session shows that
    /// it came from there.
    pub(crate) fn respond(
        &mut self,
        initiation: AuthenticInitiation,
        psk: Option<&PresharedKey>,
        proves: Option<Endpoint>,
        now: Instant,
        message: &mut [u8; RESPONSE_LEN],
    ) -> Option<()> {
        let timestamp = initiation.timestamp();
        if self.last_initiation.is_some_and(|last| timestamp <= last) {
            return None;
        }
        let index = self.new_index();
        let answer = initiation.respond(psk, index, self.cookie(now), message)?;
        self.last_initiation = Some(timestamp);
        if self.held.iter().filter(|held| !held.confirmed).count() == UNCONFIRMED
            && let Some(oldest) = self.held.iter().position(|held| !held.confirmed)
        {
            self.held.remove(oldest);
        }
        let (session, first_mac) = (Arc::new(answer.session), answer.first_mac);
        self.held.push(HeldSession { session, since: now, confirmed: false, proves, first_mac });
        Some(())
    }

    /// Whether a response for that index is one that is waited for, and among the first few.
    pub(crate) fn admits_response(&mut self, receiver: u32) -> bool {
        let pending = self.pending.iter_mut().find(|pending| pending.offer.index() == receiver);
        let admits = pending.filter(|pending| pending.admitted < ADMITTED);
        admits.is_some_and(|pending| {
            pending.admitted += 1;
            true
        })
    }

    /// Reads the answer to an initiation of ours. The session is the one that seals from now on, unless that of a later
    /// initiation does already, or a later one went to the same place: wireguard-go and the kernel drop the session of the first when
    /// the later one comes, and what was sealed in it would be lost. Then the answer proves where it came from, and is of no other use.
    pub(crate) fn complete(
        &mut self,
        identity: &Identity,
        psk: Option<&PresharedKey>,
        receiver: u32,
        message: &[u8],
        now: Instant,
    ) -> Option<Completed> {
        let at = self.pending.iter().position(|pending| pending.offer.index() == receiver)?;
        if now >= self.pending[at].at + REKEY_ATTEMPT {
            // It waited here while the machine was suspended: the peer's session is over.
            return None;
        }
        let session = Arc::new(self.pending[at].offer.complete(identity, psk, message)?);
        let PendingHandshake { target, overtaken, at: sent, .. } = self.pending.remove(at);
        let is_repeated = |later: &&PendingHandshake| {
            later.target.is_same(&target) || target.is_candidate() && later.target.is_endpoint()
        };
        let repeated = self.pending[at..].iter().rfind(is_repeated).map(|later| later.at);
        let completed = |began, target| {
            let round_trip = now.saturating_duration_since(sent);
            Some(Completed { began, target, round_trip, repeated })
        };
        if overtaken {
            return completed(None, target);
        }
        // Later ones may have been answered as well, and the peer then waits for us to use the last.
        self.pending[..at].iter_mut().for_each(|earlier| earlier.overtaken = true);
        if !target.is_stream() {
            self.pending.retain(|pending| !pending.target.is_endpoint() || !pending.overtaken);
        }
        if target.is_candidate() {
            // Of several places that were tried side by side, the nearest has answered.
            self.pending.retain(|pending| !pending.target.is_candidate() || pending.target.is_same(&target));
        }
        if repeated.is_some() {
            return completed(None, target);
        }
        self.held.push(HeldSession { session, since: now, confirmed: true, proves: None, first_mac: [0; 16] });
        self.forget_before(self.held.len() - 1);
        completed(Some(Began { since: now, initiator: true }), target)
    }

    /// An authentic message came in the session with that index. Where it is the first, the peer has shown to have it, and
    /// it is the one that seals from now on, unless a later one does already: then there is nothing that began.
    pub(crate) fn confirm(&mut self, receiver: u32) -> Option<Confirmed> {
        let at = self.held.iter().position(|held| held.session.receiver() == receiver && !held.confirmed)?;
        let held = &mut self.held[at];
        held.confirmed = true;
        let (since, proves) = (held.since, held.proves.take());
        let seals = !self.held[at + 1..].iter().any(|later| later.confirmed);
        self.forget_before(at);
        Some(Confirmed { began: seals.then_some(Began { since, initiator: false }), proves })
    }

    /// When the last initiation was answered whose session the peer has not shown to have.
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        self.held.iter().rfind(|held| !held.confirmed).map(|held| held.since)
    }

    /// Of those before `at`, which may be used from now on, the last that were used are kept. So are those that the peer may
    /// be about to use, as where both sides asked at once.
    fn forget_before(&mut self, at: usize) {
        let used = self.held[..at].iter().filter(|held| held.confirmed).count();
        let mut spare = used.saturating_sub(FORMER);
        self.held.retain(|held| {
            let goes = spare > 0 && held.confirmed;
            spare -= usize::from(goes);
            !goes
        });
    }

    /// Takes a cookie: the next initiation or answer is sent with it.
    pub(crate) fn take_cookie(&mut self, peer: &PublicKey, receiver: u32, message: &[u8], now: Instant) -> Option<()> {
        let of_offer = self.pending.iter().find(|pending| pending.offer.index() == receiver);
        let of_answer = || self.held.iter().find(|held| held.session.receiver() == receiver && !held.confirmed);
        let first_mac =
            of_offer.map(|pending| pending.offer.first_mac()).or_else(|| of_answer().map(|held| &held.first_mac));
        self.cookie = Some(Box::new(Cookie::open(message, peer, first_mac?, now)?));
        Some(())
    }

    /// The session that a message for `receiver` is for.
    pub(crate) fn by_receiver(&self, receiver: u32, now: Instant) -> Option<Arc<Session>> {
        let held = self.held.iter().find(|held| held.session.receiver() == receiver && now < held.ends())?;
        Some(Arc::clone(&held.session))
    }

    /// The session that seals.
    pub(crate) fn sealing(&self, now: Instant) -> Option<&Arc<Session>> {
        self.held.iter().rfind(|held| held.confirmed && now < held.ends()).map(|held| &held.session)
    }

    /// Ends every session and handshake. What was received stays known, so that nothing of it can be replayed where the
    /// device's key changes and changes back.
    pub(crate) fn end(&mut self) {
        let Self { slot, next, last_initiation, .. } = *self;
        *self = Self { next, last_initiation, ..Self::new(slot, Arc::clone(&self.indices)) };
    }

    /// To be called when [`Self::next`] has come.
    pub(crate) fn advance(&mut self, now: Instant, handshaking: bool) {
        self.held.retain(|held| now < held.ends());
        if !handshaking {
            self.pending.retain(|pending| now < pending.at + REKEY_TIMEOUT);
        }
        self.cookie = self.cookie.take().filter(|cookie| cookie.is_good(now));
        self.held.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    /// When to call [`Self::advance`]. What a handshake under way may still need has no end.
    pub(crate) fn next(&self, handshaking: bool) -> Option<Instant> {
        let held = self.held.iter().map(HeldSession::ends).min();
        let pending = self.pending.iter().filter(|_| !handshaking).map(|pending| pending.at + REKEY_TIMEOUT).min();
        [held, pending].into_iter().flatten().min()
    }

    fn cookie(&self, now: Instant) -> Option<&Cookie> {
        self.cookie.as_deref().filter(|cookie| cookie.is_good(now))
    }

    /// An index that no other session of this peer has.
    fn new_index(&mut self) -> u32 {
        loop {
            self.next = (self.next + 1) % SESSIONS;
            let index = self.indices.of(self.slot, self.next);
            let held = self.held.iter().map(|held| held.session.receiver());
            if held.chain(self.pending.iter().map(|pending| pending.offer.index())).all(|other| other != index) {
                return index;
            }
        }
    }

    /// Whether there is anything left to drop.
    #[cfg(test)]
    pub(crate) const fn in_use(&self) -> bool {
        !self.held.is_empty() || !self.pending.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod end;
#[cfg(test)]
mod tests;
