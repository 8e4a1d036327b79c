//! The links of one peer: the one that speaks the configured keys, and, for a while, the one it replaces.
//!
//! A preshared key cannot be changed inside a link, and a changed key must not cost the running session. So the old link
//! goes on carrying data until the new one has completed a handshake. The same is done after some handshakes that came to
//! nothing, because boringtun would let them push out the running session. Links are made when they are needed and dropped
//! when nothing of them can be used any more, so that a silent peer costs next to nothing.

use std::time::{Duration, Instant};

use crate::key::{PresharedKey, PublicKey};
use crate::noise::{INITIATION_LEN, Identity, Link, Opened};
use crate::timers::REJECT_AFTER;

/// How long a replaced link still receives: what the peer sent before it learned of the new session.
const LAST_CALL: Duration = Duration::from_secs(5);

/// boringtun reads the clock only when it is told to, and drops sessions that are too old (paper, section 6.2) only then.
/// A link that is used is told so often, one that is not used need not know.
const CLOCK: Duration = Duration::from_secs(1);

/// A session may be followed by an initiation that was never answered; boringtun would drop the session with it after
/// 90 s, so that a new handshake takes its place before.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(60);

/// A link and its age.
pub(crate) struct Held {
    pub(crate) link: Link,
    /// The upper 24 bits of its receiver indices.
    index: u32,
    /// When it last took part in a successful handshake, or was made.
    fresh: Instant,
    /// When boringtun last read the clock.
    advanced: Instant,
    /// Since when an initiation has been left unanswered beside a session.
    unanswered: Option<Instant>,
    /// When to drop it, for a replaced link.
    until: Option<Instant>,
    /// The keys have changed since: it carries its sessions to their end and begins none.
    outdated: bool,
    /// The lowest bytes of two of its receiver indices: the last one given out, and the one whose session is in use (0,
    /// which is never given out first, before there is one).
    last_index: u8,
    current_index: u8,
    /// Sessions that the peer asked for and has not yet proved to hold: receiver index, and time of the handshake.
    unconfirmed: Vec<(u32, Instant)>,
}

/// A session that has just begun to be usable.
pub(crate) struct Began {
    /// When its handshake was.
    pub(crate) since: Instant,
    /// Whether we asked for it.
    pub(crate) initiator: bool,
}

impl Held {
    /// Receiver indices that may be given out beyond that of the session in use. boringtun keeps eight sessions in a ring:
    /// the eighth handshake after it would take the place of the session in use, and be used itself before the peer has
    /// proved to hold it. Half of that, because boringtun may still use a session of the same second that came before.
    const HANDSHAKES: u8 = 4;

    /// boringtun keeps eight sessions; older ones are gone anyway.
    const UNCONFIRMED: usize = 8;

    fn new(link: Link, index: u32, now: Instant) -> Self {
        Self {
            link,
            index,
            fresh: now,
            advanced: now,
            unanswered: None,
            until: None,
            outdated: false,
            last_index: 0,
            current_index: 0,
            unconfirmed: Vec::new(),
        }
    }

    /// Whether its keys are not those of the next handshake.
    pub(crate) const fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// Whether the next handshake needs another link.
    const fn is_full(&self) -> bool {
        self.last_index.wrapping_sub(self.current_index) >= Self::HANDSHAKES
    }

    /// Writes a handshake initiation and returns its length.
    pub(crate) fn initiate(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let (len, receiver) = self.link.initiate(buffer)?;
        self.last_index = lowest_byte(receiver);
        Some(len)
    }

    /// Opens a message for `receiver`, and tells of the session that begins with it.
    pub(crate) fn open(
        &mut self,
        receiver: u32,
        datagram: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Option<(Opened, Option<Began>)> {
        let opened = self.link.open(datagram, buffer)?;
        let began = match opened {
            Opened::Established { .. } => Some(Began { since: now, initiator: true }),
            Opened::Keepalive | Opened::Packet { .. } => self.confirmed(receiver),
            Opened::Asked { .. } | Opened::Cookie => None,
        };
        if began.is_some() {
            self.current_index = lowest_byte(receiver);
            self.refresh(now);
        }
        Some((opened, began))
    }

    /// The peer asked for a session, and was answered.
    pub(crate) fn asked(&mut self, receiver: u32, now: Instant) {
        if self.unconfirmed.len() == Self::UNCONFIRMED {
            self.unconfirmed.remove(0);
        }
        self.unconfirmed.push((receiver, now));
        self.last_index = lowest_byte(receiver);
        self.refresh(now);
    }

    /// Whether this is the first message under a session that the peer asked for; older ones are forgotten with it.
    fn confirmed(&mut self, receiver: u32) -> Option<Began> {
        let at = self.unconfirmed.iter().position(|(other, _)| *other == receiver)?;
        let (_, since) = self.unconfirmed.drain(..=at).next_back()?;
        Some(Began { since, initiator: false })
    }

    /// Lets boringtun read the clock, if it is time. To be called before the link is used.
    fn catch_up(&mut self, now: Instant) {
        if now >= self.advanced + CLOCK {
            self.link.advance();
            self.advanced = now;
        }
    }

    /// When nothing of it can be used any more.
    fn ends(&self) -> Instant {
        let ends = self.fresh + REJECT_AFTER;
        self.until.map_or(ends, |until| ends.min(until))
    }

    /// When an initiation beside a session has been left unanswered for too long.
    fn overdue(&self) -> Option<Instant> {
        self.unanswered.map(|since| since + UNANSWERED_LIMIT)
    }

    fn refresh(&mut self, now: Instant) {
        self.fresh = now;
        self.unanswered = self.link.awaits_response().then_some(now);
    }
}

/// The links of one peer.
pub(crate) struct Links {
    slot: u32,
    /// The lowest bit of the index of the link made last.
    last_bit: u32,
    newest: Option<Held>,
    retiring: Option<Held>,
    /// The last initiation that was accepted. A new link is shown it first, so that it refuses that one and every
    /// older one as a replay, as its predecessor did.
    last_initiation: Option<Box<[u8; INITIATION_LEN]>>,
}

impl Links {
    /// `slot` has 23 bits and is the peer's own while it exists.
    pub(crate) const fn new(slot: u32) -> Self {
        Self { slot, last_bit: 0, newest: None, retiring: None, last_initiation: None }
    }

    /// The slot that a receiver index belongs to.
    pub(crate) const fn slot_of(receiver: u32) -> u32 {
        receiver >> 9
    }

    /// The link for handshakes, made if there is none that has room.
    pub(crate) fn newest(
        &mut self,
        identity: &Identity,
        peer: PublicKey,
        psk: Option<&PresharedKey>,
        now: Instant,
        buffer: &mut [u8],
    ) -> &mut Held {
        if self.newest.as_ref().is_some_and(Held::is_full) {
            self.retire();
        }
        let (slot, last) = (self.slot, &self.last_initiation);
        // At most two links at a time, so that one bit tells them apart.
        let other_bit = self.retiring.as_ref().map_or(self.last_bit, |retiring| retiring.index & 1);
        let last_bit = &mut self.last_bit;
        let newest = self.newest.get_or_insert_with(|| {
            *last_bit = other_bit ^ 1;
            let index = slot << 1 | *last_bit;
            let mut link = Link::new(identity, peer, psk, index);
            if let Some(last) = last {
                link.open(&last[..], buffer);
            }
            Held::new(link, index, now)
        });
        newest.catch_up(now);
        newest
    }

    /// The link that a message for `receiver` is for, and whether it is the newest.
    pub(crate) fn by_receiver(&mut self, receiver: u32, now: Instant) -> Option<(&mut Held, bool)> {
        let index = receiver >> 8;
        let (held, newest) = match (&mut self.newest, &mut self.retiring) {
            (Some(newest), _) if newest.index == index => (newest, true),
            (_, Some(retiring)) if retiring.index == index => (retiring, false),
            _ => return None,
        };
        held.catch_up(now);
        Some((held, newest))
    }

    /// The link whose session carries data now.
    pub(crate) fn sending(&mut self, now: Instant) -> Option<&mut Link> {
        for held in [&mut self.newest, &mut self.retiring].into_iter().flatten() {
            held.catch_up(now);
        }
        let held = self.newest.as_mut().filter(|held| held.link.has_session());
        held.or(self.retiring.as_mut().filter(|held| held.link.has_session())).map(|held| &mut held.link)
    }

    /// Remembers an initiation that was accepted.
    pub(crate) fn remember_initiation(&mut self, datagram: &[u8]) {
        self.last_initiation = <[u8; INITIATION_LEN]>::try_from(datagram).ok().map(Box::new);
    }

    /// The preshared key changed: the next handshake needs a new link.
    pub(crate) fn retire_outdated(&mut self) {
        for held in [&mut self.newest, &mut self.retiring].into_iter().flatten() {
            held.outdated = true;
        }
        self.retire();
    }

    fn retire(&mut self) {
        if let Some(newest) = self.newest.take() {
            // Where no handshake succeeds between two of these, the session is still in the older link.
            if newest.link.has_session() || self.retiring.is_none() {
                self.retiring = Some(newest);
            }
        }
    }

    /// The newest link has a session: the replaced one has little time left.
    pub(crate) fn newest_took_over(&mut self, now: Instant) {
        if let Some(retiring) = &mut self.retiring {
            retiring.until.get_or_insert(now + LAST_CALL);
        }
    }

    /// Ends every session and handshake, and forgets what was received: the device's key changed, so that nothing of it
    /// can be replayed.
    pub(crate) fn end(&mut self) {
        self.newest = None;
        self.retiring = None;
        self.last_initiation = None;
    }

    /// Nobody answered: what is left of the newest link is of no use.
    pub(crate) fn drop_newest(&mut self) {
        self.newest = None;
    }

    /// To be called when [`Self::next`] has come. True where a handshake should be begun.
    pub(crate) fn advance(&mut self, now: Instant, handshaking: bool) -> bool {
        let dead = |held: &Held| now >= held.ends();
        if self.retiring.as_ref().is_some_and(dead) {
            self.retiring = None;
        }
        if !handshaking && self.newest.as_ref().is_some_and(dead) {
            self.newest = None;
        }
        let overdue = |held: &Held| held.overdue().is_some_and(|at| now >= at);
        !handshaking && self.newest.as_ref().is_some_and(overdue)
    }

    /// When to call [`Self::advance`]. What a handshake under way may still need has no end.
    pub(crate) fn next(&self, handshaking: bool) -> Option<Instant> {
        let retiring = self.retiring.as_ref().map(Held::ends);
        let newest = self.newest.as_ref().filter(|_| !handshaking);
        let newest = newest.map(|held| held.overdue().map_or(held.ends(), |at| at.min(held.ends())));
        [retiring, newest].into_iter().flatten().min()
    }

    /// Whether there is anything left to drop.
    #[cfg(test)]
    pub(crate) const fn in_use(&self) -> bool {
        self.newest.is_some() || self.retiring.is_some()
    }
}

fn lowest_byte(receiver: u32) -> u8 {
    receiver.to_le_bytes()[0]
}
