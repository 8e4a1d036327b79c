//! Which handshakes are worked on while too many come in. Pure: it is given the time, and told what work took.
//!
//! A handshake is five multiplications on a curve, and who asks for one shows only after the first of them. Load is when handshakes
//! ask for more processor time than there is for them, whether they get it or not; it is no number of messages. Under load, most of
//! the time is for those who show a cookie (paper, section 5.3); what one such address may cost is limited as in the kernel's
//! `ratelimiter.c`. A little is for those without one that ask for little: another implementation waits five seconds after a cookie,
//! which it has to only if its address is one of the busy ones, or these are too many to be told apart.
//!
//! Accepted streams on which no peer is proved ([`Source::Stranger`]) have a time of their own: a host that opens many of them takes it
//! from other strangers with streams, and from no peer. Each has its own handshakes of it, so that the share of a new one
//! depends on how many there are at once, of which `mesh-paths` lets in 64; and each new one costs its opener a connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::noise::{COOKIE_LEN, CookieJar, Identity};

/// What handshakes may ask for in microseconds of processor time: a quarter of a core, and half a second's work of a whole one after
/// a time in which they asked for less.
const DEMAND: Limit = Limit { per_second: 250_000.0, most: 500_000.0 };

/// There is load while no more than this is left of it: a thousand nodes that start at once make none.
const LOAD: f64 = 0.5 * DEMAND.most;

/// What a message that is not worked on would have taken, at least: a multiplication.
const UNTRIED: f64 = 50.0;

/// What those get under load who show a cookie.
const PROVED: Limit = Limit { per_second: 150_000.0, most: 150_000.0 };

/// What those get who show it on a stream that they opened, as long as no peer is proved on it.
const STRANGERS: Limit = Limit { per_second: 50_000.0, most: 50_000.0 };

/// What those get without one, while they ask for little.
const CLAIMED: Limit = Limit { per_second: 50_000.0, most: 50_000.0 };

/// Handshakes that one source may ask for under load.
const EACH: Limit = Limit { per_second: 20.0, most: 5.0 };

/// Cookies that are sent: each takes a system call. A newcomer among 56,000 others a second gets one.
const COOKIES: Limit = Limit { per_second: 64_000.0, most: 16_000.0 };

/// Of these, what only sources get that ask for little.
const COOKIES_KEPT: f64 = 0.5 * COOKIES.most;

/// Sources remembered at a time. One that is not among them while they are all busy needs a cookie.
const SOURCES: usize = 4096;

/// What is to be done with a handshake message.
pub(crate) enum Admission {
    /// Work on it, and report what that took: [`Flood::worked`].
    Work(Why),
    /// Send this cookie, and nothing else.
    Cookie([u8; COOKIE_LEN]),
    Refuse,
}

/// Who asks for a handshake, and what a cookie is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A host, or a stream that is as good as one: we dialed it, or a peer is proved on it.
    Host(SocketAddr),
    /// A stream that another host opened, and on which no peer is proved.
    Stranger(SocketAddr),
}

impl Source {
    const fn address(&self) -> SocketAddr {
        match self {
            Self::Host(address) | Self::Stranger(address) => *address,
        }
    }

    /// Whose limit applies to one without a cookie: by many streams, a host has no more handshakes than by one.
    const fn claimed(&self) -> IpAddr {
        match self {
            Self::Host(address) => address.ip(),
            Self::Stranger(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// Why a handshake is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is no load.
    Calm,
    /// It showed a cookie.
    Proved,
    /// It showed a cookie on a stream of a stranger's.
    Stranger,
    /// Its source asks for little.
    Claimed,
    /// It is the response to an initiation of ours.
    Awaited,
}

/// Decides. One for all threads of a device.
#[derive(Default)]
pub(crate) struct Flood {
    demand: Bucket,
    proved: Share,
    strangers: Share,
    claimed: Share,
    cookies: Bucket,
    jar: CookieJar,
}

/// What is left under load for some of the sources.
#[derive(Default)]
struct Share {
    time: Bucket,
    sources: Sources,
}

/// What comes back in a second, and the most that is saved.
#[derive(Clone, Copy)]
struct Limit {
    per_second: f64,
    most: f64,
}

/// How much of a limit is left. The default is all of it.
#[derive(Clone, Copy, Default)]
struct Bucket {
    spent: f64,
    since: Option<Instant>,
}

impl Bucket {
    fn left(&mut self, limit: Limit, now: Instant) -> f64 {
        let since = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.since = Some(now);
        self.spent = since.as_secs_f64().mul_add(-limit.per_second, self.spent).max(0.0);
        limit.most - self.spent
    }

    /// More than there is, too, which takes its time to come back; but not for long: a thread that was kept from the processor did
    /// not work all the while.
    fn spend(&mut self, limit: Limit, amount: f64) {
        self.spent = (self.spent + amount).min(2.0 * limit.most);
    }

    /// Takes one where, of what is left, at least `kept` stays.
    fn take(&mut self, limit: Limit, kept: f64, now: Instant) -> bool {
        let taken = self.left(limit, now) >= kept + 1.0;
        self.spent += f64::from(u8::from(taken));
        taken
    }
}

/// What each source has left of [`EACH`].
#[derive(Default)]
pub(crate) struct Sources {
    tidied: Option<Instant>,
    buckets: HashMap<IpAddr, Bucket>,
}

impl Sources {
    pub(crate) fn take(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.tidied.is_none_or(|tidied| now >= tidied + Duration::from_secs(1)) {
            self.tidied = Some(now);
            // One that has been quiet has all of it, as has one that is not here.
            self.buckets.retain(|_, bucket| bucket.left(EACH, now) < EACH.most);
            self.buckets.shrink_to(2 * self.buckets.len());
        }
        let from = network_of(from);
        if self.buckets.len() >= SOURCES && !self.buckets.contains_key(&from) {
            return false;
        }
        self.buckets.entry(from).or_default().take(EACH, 0.0, now)
    }
}

impl Flood {
    /// What to do with an initiation or a response that is for this device.
    pub(crate) fn admit(&mut self, identity: &Identity, message: &[u8], from: Source, now: Instant) -> Admission {
        if self.demand.left(DEMAND, now) > LOAD {
            return Admission::Work(Why::Calm);
        }
        let address = from.address();
        if self.jar.is_shown(message, address, now) {
            let (share, limit, why) = match from {
                Source::Host(_) => (&mut self.proved, PROVED, Why::Proved),
                Source::Stranger(_) => (&mut self.strangers, STRANGERS, Why::Stranger),
            };
            let is_admitted = share.time.left(limit, now) > 0.0 && share.sources.take(address.ip(), now);
            if is_admitted {
                return Admission::Work(why);
            }
            self.demand.spend(DEMAND, UNTRIED);
            return Admission::Refuse;
        }
        let asks_for_little = self.claimed.sources.take(from.claimed(), now);
        if asks_for_little && self.claimed.time.left(CLAIMED, now) > 0.0 {
            return Admission::Work(Why::Claimed);
        }
        self.demand.spend(DEMAND, UNTRIED);
        let is_quiet = match from {
            Source::Host(_) => asks_for_little,
            Source::Stranger(_) => self.strangers.sources.take(address.ip(), now),
        };
        let kept = if is_quiet { 0.0 } else { COOKIES_KEPT };
        if !self.cookies.take(COOKIES, kept, now) {
            return Admission::Refuse;
        }
        self.jar.reply(identity, message, address, now).map_or(Admission::Refuse, Admission::Cookie)
    }

    /// Work on a handshake took so long.
    pub(crate) fn worked(&mut self, why: Why, time: Duration) {
        let micros = time.as_secs_f64() * 1e6;
        self.demand.spend(DEMAND, micros);
        match why {
            Why::Calm | Why::Awaited => {}
            Why::Proved => self.proved.time.spend(PROVED, micros),
            Why::Stranger => self.strangers.time.spend(STRANGERS, micros),
            Why::Claimed => self.claimed.time.spend(CLAIMED, micros),
        }
    }
}

/// A host that has one IPv6 address has its /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests;
