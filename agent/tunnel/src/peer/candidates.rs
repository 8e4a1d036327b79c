//! Which address other than the endpoint gets initiations, when, and whether it gets packets too: decided here, done in `roam.rs`.

use std::mem;
use std::net::SocketAddr;
use std::slice::Iter;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;

/// The waits after the initiations to a candidate, where no response may take longer; after the last it has failed. Where what goes
/// there is lost for a second, one of those sent later is answered before [`COPIES`] are over, if a round trip takes half a second at most
/// and no other handshake is waited for. Else packets may be lost until one is answered.
static WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(500), Duration::from_millis(750)];

/// The same where one on that host has failed: an initiation a second, each only when data has come from there again.
static WAITS_AFTER_FAILURE: [Duration; 1] = [Duration::from_secs(1)];

/// The longest wait, where a response takes its time.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How long a candidate gets copies of the packets, at most.
const COPIES: Duration = Duration::from_secs(2);

/// How long no candidate gets copies after one failed, and at most after some with copies failed again and again: else a peer that
/// writes sources into its datagrams could have its packets sent to any host it likes.
const NO_COPIES: Duration = Duration::from_secs(10);
const MAX_NO_COPIES: Duration = Duration::from_secs(600);

/// How long the endpoint must have been silent before another address becomes the candidate, by how often it was heard again after
/// one had. Where a network changes sources with every packet, all of them work, and the endpoint need not follow.
const SILENCES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(6)];

/// Where the endpoint moves again after less than this, the peer's addresses alternate. A NAT that rebinds keeps each for longer.
const STAY: Duration = Duration::from_secs(5);

/// After so long without data from elsewhere, the next address is a candidate at once.
const SILENCE_RESET: Duration = Duration::from_secs(10);

/// How long an address is no candidate that the owner says the peer has left: until the peer knows as well, which lets it send to
/// both addresses for up to [`COPIES`].
const LEFT: Duration = Duration::from_secs(3);

/// What is known of addresses that are not the endpoint.
#[derive(Default)]
pub(super) struct Candidates {
    current: Option<Candidate>,
    /// The last that failed.
    failed: Option<Failed>,
    /// What the owner says the peer has left, and until when it is no candidate.
    left: Option<(SocketAddr, Instant)>,
    /// When the last initiation was due.
    asked: Option<Instant>,
    /// When data last came from the endpoint, and from elsewhere.
    heard: Option<Instant>,
    heard_elsewhere: Option<Instant>,
    /// When the endpoint last moved.
    moved: Option<Instant>,
    /// Whether there was a candidate since the endpoint was heard, and how often there had been when it was; without those to which
    /// the endpoint moved after it had stayed for [`STAY`].
    tried: bool,
    returns: usize,
}

struct Candidate {
    endpoint: Endpoint,
    waits: Iter<'static, Duration>,
    /// When the next initiation is due, or the end.
    next: Instant,
    copies_until: Option<Instant>,
}

struct Failed {
    /// `None` where it proved itself since. A peer that lies about the host lies about the port.
    address: Option<SocketAddr>,
    /// How many failed that had copies.
    times: u32,
    no_copies_until: Instant,
}

impl Candidates {
    /// Where packets go too.
    pub(super) fn copies_to(&self, now: Instant) -> Option<Endpoint> {
        let current = self.current.as_ref()?;
        current.copies_until.filter(|until| now < *until).map(|_| current.endpoint)
    }

    /// When [`Self::due`] has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        self.current.as_ref().map(|current| current.next)
    }

    pub(super) fn heard_from_endpoint(&mut self, now: Instant) {
        self.returns += usize::from(mem::take(&mut self.tried));
        self.heard = Some(now);
    }

    /// The endpoint moves, to what is heard from then on. That is no return where it had stayed for long.
    pub(super) fn moved(&mut self, now: Instant) {
        let before = self.moved.replace(now);
        self.tried &= before.is_some_and(|before| now < before + STAY);
    }

    /// Data came from an address that is not proved: it becomes the candidate, unless there is one, or reason to wait.
    ///
    /// `response_time` is how long a response may take. Of two initiations that a peer gets within it, the first may begin a session
    /// that ends with the second. `None` where one may be on its way to the endpoint.
    pub(super) fn heard_from(
        &mut self,
        from: Endpoint,
        is_endpoint: bool,
        response_time: Option<Duration>,
        now: Instant,
    ) {
        if !is_endpoint && self.endpoint_works(from.address, now) || self.current.is_some() {
            return;
        }
        if response_time.is_none_or(|time| self.asked.is_some_and(|asked| now < asked + time.min(MAX_WAIT))) {
            return;
        }
        let may_copy = !is_endpoint && self.failed.as_ref().is_none_or(|failed| now >= failed.no_copies_until);
        let waits = if self.has_failed(from.address, now) { WAITS_AFTER_FAILURE.iter() } else { WAITS.iter() };
        let copies_until = may_copy.then(|| now + COPIES);
        self.current = Some(Candidate { endpoint: from, waits, next: now, copies_until });
        self.tried = true;
    }

    /// Whether the endpoint was heard so lately that data from this address is no reason to leave it, or the peer was said to have
    /// left this address.
    fn endpoint_works(&mut self, address: SocketAddr, now: Instant) -> bool {
        let before = self.heard_elsewhere.replace(now);
        if before.is_none_or(|before| now >= before + SILENCE_RESET) {
            self.returns = 0;
        }
        let silence = SILENCES[self.returns.min(SILENCES.len() - 1)];
        self.heard.is_some_and(|heard| now < heard + silence)
            || self.left.is_some_and(|(left, until)| left == address && now < until)
    }

    /// Where an initiation is due now.
    pub(super) fn due(&mut self, response_time: Duration, now: Instant) -> Option<Endpoint> {
        let current = self.current.as_mut().filter(|current| now >= current.next)?;
        if let Some(wait) = current.waits.next() {
            current.next = now + response_time.clamp(*wait, MAX_WAIT);
            self.asked = Some(now);
            return Some(current.endpoint);
        }
        let Candidate { endpoint, copies_until, .. } = self.current.take()?;
        if !self.has_failed(endpoint.address, now) {
            let recent = self.failed.take().filter(|failed| now < failed.no_copies_until + MAX_NO_COPIES);
            let times = recent.map_or(0, |failed| failed.times) + u32::from(copies_until.is_some());
            let pause = NO_COPIES.saturating_mul(1 << times.saturating_sub(1).min(6)).min(MAX_NO_COPIES);
            self.failed = Some(Failed { address: Some(endpoint.address), times, no_copies_until: now + pause });
        }
        None
    }

    /// Whether a candidate on the same host has failed lately.
    fn has_failed(&self, address: SocketAddr, now: Instant) -> bool {
        let failed = self.failed.as_ref().filter(|failed| now < failed.no_copies_until);
        failed.and_then(|failed| failed.address).is_some_and(|failed| failed.ip() == address.ip())
    }

    /// The peer is at this address: nothing is held against it.
    pub(super) fn proved(&mut self, address: SocketAddr) {
        self.current.take_if(|current| current.endpoint.address == address);
        self.left.take_if(|(left, _)| *left == address);
        if let Some(failed) = &mut self.failed {
            failed.address.take_if(|failed| *failed == address);
        }
    }

    /// The owner says that the peer has left this address.
    pub(super) fn left(&mut self, address: SocketAddr, now: Instant) {
        self.current.take_if(|current| current.endpoint.address == address);
        self.left = Some((address, now + LEFT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Path;
    use crate::timers::Timers;

    const MS: Duration = Duration::from_millis(1);

    /// How long after the candidate was first heard an initiation is answered, where what is sent in the first second is lost.
    fn answered_after(round_trip: Duration) -> Duration {
        let start = Instant::now();
        let (mut candidates, mut timers) = (Candidates::default(), Timers::new(start));
        timers.responded(round_trip, Path::Udp);
        let address = ([192, 0, 2, 1], 7).into();
        candidates.heard_from(Endpoint { address, source: None }, false, Some(timers.response_time()), start);
        let sent = std::iter::from_fn(|| {
            let next = candidates.next()?;
            candidates.due(timers.response_time(), next).map(|_| next - start)
        });
        sent.into_iter().find(|sent| *sent >= 1000 * MS).unwrap() + round_trip
    }

    #[test]
    fn after_a_second_of_loss_a_candidate_is_proved_before_copies_end_or_round_trips_are_long() {
        for round_trip in (0..=500).map(|ms| ms * MS) {
            let answered = answered_after(round_trip);
            assert!(answered <= COPIES, "{round_trip:?}: {answered:?}");
        }
        assert!(answered_after(600 * MS) > COPIES, "then not");
    }
}
