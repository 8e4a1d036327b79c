//! Which sizes are probed, when, and what follows from what is acknowledged. Pure: callers pass the time.
//!
//! A path counts as wide as the interface until it is found to be narrower: most are. Only traffic that could be lost asks, so that a
//! peer without large packets gets no probe:
//!
//! | state | probes |
//! |---|---|
//! | packets larger than [`BASE`] go, and the size in use was not acknowledged for [`CONFIRMED_FOR`] | one of that size |
//! | it is not acknowledged | it once more, and one of [`BASE`] |
//! | that one alone is | a ladder: all usual sizes between, [`LADDERS`] times, each time those above the largest that came |
//! | the size in use is less than the interface's MTU | all usual sizes above, after a second, then ever more seldom, every [`RAISE_AFTER`] |
//!
//! The size falls only where a smaller one comes while larger ones are lost five times in a row, so that neither loss at random nor a
//! path that is gone makes it fall; it rises with the first that comes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::Question;

/// The smallest size in use, in bytes inside the tunnel: what every path over IPv6 carries (1280 bytes outside), and RFC 8899's
/// section 5.1.2 begins with.
pub(crate) const BASE: u16 = 1200;

/// What links, and tunnels in them, usually carry, in bytes outside: jumbo frames, Ethernet, PPPoE, GRE and IP in IP, VXLAN, WireGuard,
/// mobile networks, and steps in between.
const USUAL: [u16; 19] =
    [9000, 1500, 1492, 1480, 1472, 1460, 1450, 1440, 1430, 1420, 1410, 1400, 1390, 1380, 1360, 1340, 1320, 1300, 1280];

/// Sizes in one ladder at most: the usual ones, the interface's and the smallest.
const SIZES: usize = USUAL.len() + 2;

/// How long an acknowledgement says that the size in use gets through.
const CONFIRMED_FOR: Duration = Duration::from_secs(1);

/// How long an acknowledgement is waited for: two round trips, and this at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// Tries before a path of which nothing comes is left alone, and ladders where something does.
const TRIES: u32 = 5;
const LADDERS: u32 = 3;

/// How often larger sizes are tried, once the first tries were in vain.
const RAISE_AFTER: Duration = Duration::from_secs(10);

/// The longest pause where nothing is acknowledged: of a peer that did so before, which may be back at any moment, and of one that
/// never did, because it does not know probes.
const PAUSE: Duration = Duration::from_secs(4);
const PAUSE_OF_STRANGERS: Duration = Duration::from_secs(600);

/// How often senders are told that their packets are too long. Each hears of it by one of its packets: this bounds the work for those
/// that do not listen.
const TELL_AFTER: Duration = Duration::from_millis(10);

/// Probes of which an acknowledgement may still come, by number.
const REMEMBERED: usize = 8;

/// Sizes to be probed now, in one go; perhaps none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) number: u32,
    pub(crate) sizes: ArrayVec<u16, SIZES>,
}

/// What is known of the path to one peer.
#[derive(Debug)]
pub(crate) struct Search {
    /// Where the peer is, and the interface's MTU: with another, everything begins again.
    path: (SocketAddr, u16),
    usable: u16,
    /// The size in use that [`Self::report`] last returned.
    reported: Option<u16>,
    asking: Option<Asking>,
    /// When a large packet is to begin the next check.
    check_at: Instant,
    /// When one is to try larger sizes, and how long until the next time.
    raise_at: Instant,
    raise_after: Duration,
    /// When a sender was last told that its packets are too long.
    told: Option<Instant>,
    round_trip: Duration,
    next_number: u32,
    sent: ArrayVec<(u32, Instant), REMEMBERED>,
    /// Whether the peer ever acknowledged; `None` before it had time to. And how often in a row nothing was.
    is_answering: Option<bool>,
    in_vain: u32,
}

/// The size in use is being checked.
#[derive(Debug)]
struct Asking {
    tries: u32,
    ladders: u32,
    /// The largest that was acknowledged.
    largest: u16,
    until: Instant,
}

impl Search {
    /// Of a path where nothing was sent yet.
    pub(crate) fn new(endpoint: SocketAddr, mtu: u16, now: Instant) -> Self {
        Self {
            path: (endpoint, mtu),
            usable: mtu,
            reported: None,
            asking: None,
            check_at: now,
            raise_at: now,
            raise_after: CONFIRMED_FOR,
            told: None,
            round_trip: Duration::ZERO,
            next_number: 0,
            sent: ArrayVec::new(),
            is_answering: None,
            in_vain: 0,
        }
    }

    /// The largest inner packet to be sent, in bytes; never more than the interface's MTU.
    pub(crate) const fn usable(&self) -> u16 {
        self.usable
    }

    /// The same where the peer has acknowledged something.
    pub(crate) fn found(&self) -> Option<u16> {
        (self.is_answering == Some(true)).then_some(self.usable)
    }

    /// Whether the peer was asked in vain and has never acknowledged: it does not know probes, so that nothing can be found out.
    pub(crate) fn is_pointless(&self) -> bool {
        self.is_answering == Some(false)
    }

    /// A packet goes there that is larger than [`BASE`], or as large as the size in use.
    pub(crate) fn large_sent(&mut self, endpoint: SocketAddr, mtu: u16, now: Instant) -> Probes {
        if self.path != (endpoint, mtu) {
            let Self { next_number, is_answering, reported, .. } = *self;
            *self = Self { next_number, is_answering, reported, ..Self::new(endpoint, mtu, now) };
        }
        if self.asking.is_some() {
            return Probes::default();
        }
        if self.usable < mtu && now >= self.raise_at {
            self.raise_at = now + self.raise_after;
            self.raise_after = (self.raise_after * 2).min(RAISE_AFTER);
            return self.probe(self.sizes(self.usable + 1, mtu), now);
        }
        // Below the smallest there is nothing to fall to.
        if self.usable <= BASE || now < self.check_at {
            return Probes::default();
        }
        self.asking = Some(Asking { tries: 1, ladders: 0, largest: 0, until: now + self.wait() });
        self.probe([self.usable], now)
    }

    /// The size in use, where it is another than this last returned.
    pub(crate) fn report(&mut self) -> Option<u16> {
        let before = self.reported.replace(self.usable);
        (before != Some(self.usable)).then_some(self.usable)
    }

    /// The peer, whose endpoint this is now, says that this probe came. What is smaller than all that are sent, or of another path, is
    /// no reason to believe anything: a size of a few bytes would make packets without number of one.
    pub(crate) fn acknowledged(&mut self, question: Question, endpoint: Option<SocketAddr>, now: Instant) -> Probes {
        let Question { number, size } = question;
        let sent = self.sent.iter().find(|sent| sent.0 == number);
        let is_possible = endpoint == Some(self.path.0) && (BASE.min(self.path.1)..=self.path.1).contains(&size);
        let Some((_, sent)) = sent.filter(|_| is_possible) else { return Probes::default() };
        let took = now.saturating_duration_since(*sent);
        self.round_trip = took.max((self.round_trip * 7 + took) / 8);
        (self.is_answering, self.in_vain) = (Some(true), 0);
        if size >= self.usable {
            self.usable = size;
            self.asking = None;
            self.check_at = now + CONFIRMED_FOR;
            return Probes::default();
        }
        let wait = self.wait();
        let Some(asking) = &mut self.asking else { return Probes::default() };
        asking.largest = asking.largest.max(size);
        if asking.ladders > 0 {
            return Probes::default();
        }
        (asking.ladders, asking.until) = (1, now + wait);
        self.climb(size, now)
    }

    /// Does what is due, where the peer's endpoint is this. Another one is not asked before packets go there.
    pub(crate) fn due(&mut self, endpoint: Option<SocketAddr>, now: Instant) -> Probes {
        if endpoint != Some(self.path.0) {
            self.asking = None;
        }
        let wait = self.wait();
        let Some(asking) = self.asking.as_mut().filter(|asking| now >= asking.until) else {
            return Probes::default();
        };
        asking.until = now + wait;
        if asking.ladders > 0 && asking.ladders < LADDERS {
            asking.ladders += 1;
            let largest = asking.largest;
            return self.climb(largest, now);
        }
        if asking.ladders == 0 && asking.tries < TRIES {
            asking.tries += 1;
            return self.probe([self.usable, BASE], now);
        }
        if asking.ladders > 0 {
            self.usable = asking.largest;
            self.raise_after = CONFIRMED_FOR;
            self.raise_at = now + self.raise_after;
            self.check_at = now + CONFIRMED_FOR;
        } else {
            let longest = if *self.is_answering.get_or_insert(false) { PAUSE } else { PAUSE_OF_STRANGERS };
            self.check_at = now + CONFIRMED_FOR.saturating_mul(1 << self.in_vain.min(16)).min(longest);
            self.in_vain += 1;
        }
        self.asking = None;
        Probes::default()
    }

    /// When to call [`Self::due`].
    pub(crate) fn next(&self) -> Option<Instant> {
        self.asking.as_ref().map(|asking| asking.until)
    }

    /// Whether a sender is to be told now that its packet is longer than the size in use.
    pub(crate) fn may_tell(&mut self, now: Instant) -> bool {
        let may = self.told.is_none_or(|told| now >= told + TELL_AFTER);
        if may {
            self.told = Some(now);
        }
        may
    }

    fn wait(&self) -> Duration {
        (self.round_trip * 2).clamp(WAITS.0, WAITS.1)
    }

    /// All sizes above this one, up to that in use.
    fn climb(&mut self, largest: u16, now: Instant) -> Probes {
        self.probe(self.sizes(largest + 1, self.usable), now)
    }

    /// The usual sizes between, and the last.
    fn sizes(&self, least: u16, most: u16) -> ArrayVec<u16, SIZES> {
        let overhead = if self.path.0.is_ipv4() { 60 } else { 80 };
        let usual = USUAL.iter().map(|outside| outside - overhead);
        std::iter::once(most).chain(usual.filter(|size| (least.max(BASE)..most).contains(size))).collect()
    }

    fn probe(&mut self, sizes: impl IntoIterator<Item = u16>, now: Instant) -> Probes {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        if self.sent.is_full() {
            self.sent.remove(0);
        }
        self.sent.push((number, now));
        Probes { number, sizes: sizes.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests;
