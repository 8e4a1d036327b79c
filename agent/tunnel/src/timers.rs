//! When a peer's handshakes and keepalives are due (paper, section 6). Pure: callers pass the time.

use std::time::{Duration, Instant};

use crate::path::Path;

/// A session's initiator begins a new handshake when it sends and the session is older than this.
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A session is not used beyond this age.
pub(crate) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// A handshake without an answer is given up after this.
pub(crate) const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// An initiation is repeated after this, once the first quick retries are over.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Received data is answered by a keepalive after this, where nothing else was sent.
pub(crate) const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// The waits after the first initiations. Both sides of a new connection initiate, and one may start a moment later than the other:
/// a wait of five seconds would be most of the time until they are connected.
const QUICK_RETRIES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A response that takes longer than the last by a quarter of it and this may still come: only then the next initiation is sent,
/// because a peer drops the session of its response when the next initiation comes.
const RESPONSE_MARGIN: Duration = Duration::from_millis(100);

/// The longest round trip that is allowed for: three times that of other implementations.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(15);

/// The same by a stream, whose gateway could hold responses back, and with them what goes by UDP: as long as others wait.
const MAX_STREAM_ROUND_TRIP: Duration = REKEY_TIMEOUT;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a handshake initiation, then call [`Timers::initiation_sent`]; `again` where an earlier one got no answer.
    Initiate { again: bool },
    /// Send an empty data packet, then call [`Timers::sent`].
    Keepalive,
    /// No answer for [`REKEY_ATTEMPT`]: drop the packets that wait for a session.
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    began: Instant,
    initiations: u32,
    next: Instant,
    /// Whether a response came to one, if not to the last.
    responded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    since: Instant,
    initiator: bool,
}

/// The timers of one peer.
#[derive(Debug)]
pub(crate) struct Timers {
    attempt: Option<Attempt>,
    session: Option<Session>,
    /// How long the last response took.
    round_trip: Option<Duration>,
    /// When the first data packet was sent since the last authentic message was received.
    unanswered: Option<Instant>,
    /// When the first data packet was received since the last authenticated message was sent.
    unacknowledged: Option<Instant>,
    /// When an authenticated message was last sent or received.
    last_traffic: Instant,
    /// The interval of the persistent keepalive.
    keepalive: Option<Duration>,
}

impl Timers {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            attempt: None,
            session: None,
            round_trip: None,
            unanswered: None,
            unacknowledged: None,
            last_traffic: now,
            keepalive: None,
        }
    }

    pub(crate) fn keepalive(&self) -> Option<Duration> {
        self.keepalive
    }

    /// Changes the persistent keepalive. When it is turned on, the first one is due at once.
    pub(crate) fn set_keepalive(&mut self, keepalive: Option<Duration>, now: Instant) {
        if let (None, Some(interval)) = (self.keepalive, keepalive) {
            self.last_traffic = now.checked_sub(interval).unwrap_or(now);
        }
        self.keepalive = keepalive;
    }

    /// Begins a handshake where none is under way. True where it began one.
    pub(crate) fn want_handshake(&mut self, now: Instant) -> bool {
        if self.attempt.is_some() {
            return false;
        }
        self.attempt = Some(Attempt { began: now, initiations: 0, next: now, responded: false });
        true
    }

    /// Begins a new handshake, with its quick retries: to be called when the peer may be at a new address.
    pub(crate) fn restart_handshake(&mut self, now: Instant) {
        self.attempt = None;
        self.round_trip = None;
        self.want_handshake(now);
    }

    /// Gives up the handshake under way, because its initiation cannot be sent.
    pub(crate) fn abandon_handshake(&mut self) {
        self.attempt = None;
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.attempt.is_some()
    }

    /// How long a handshake has been under way; `None` where none is.
    pub(crate) fn handshaking_for(&self, now: Instant) -> Option<Duration> {
        self.attempt.map(|attempt| now.saturating_duration_since(attempt.began))
    }

    /// An initiation was sent. `jitter` (below 334 ms) keeps the initiations of two sides from crossing each other again and again.
    pub(crate) fn initiation_sent(&mut self, now: Instant, jitter: Duration) {
        let response_time = self.response_time();
        if let Some(attempt) = &mut self.attempt {
            let quick = usize::try_from(attempt.initiations).ok().and_then(|sent| QUICK_RETRIES.get(sent));
            attempt.initiations += 1;
            let wait = quick.map_or(REKEY_TIMEOUT + jitter, |wait| *wait);
            attempt.next = now + wait.max(response_time);
        }
        self.sent(now);
    }

    /// A response came, which took so long. What an attacker holds back must not delay all that follows.
    pub(crate) fn responded(&mut self, round_trip: Duration, by: Path) {
        let most = if by == Path::Stream { MAX_STREAM_ROUND_TRIP } else { MAX_ROUND_TRIP };
        self.round_trip = Some(round_trip.min(most));
    }

    /// A response came that is of no use because an initiation was `sent` after the one that it is for: the handshake goes on when
    /// the response to that one should have come.
    pub(crate) fn await_response(&mut self, sent: Instant, now: Instant) {
        self.want_handshake(now);
        let response_time = self.response_time();
        if let Some(attempt) = &mut self.attempt {
            attempt.responded = true;
            attempt.next = sent + response_time;
        }
    }

    /// How long a response may take, as far as is known.
    pub(crate) fn response_time(&self) -> Duration {
        self.round_trip.map_or(Duration::ZERO, |round_trip| round_trip + round_trip / 4 + RESPONSE_MARGIN)
    }

    /// Whether one should come at any moment: to the first initiation of a handshake, or to the last after another came.
    pub(crate) fn awaits_response(&self, now: Instant) -> bool {
        self.response_due(now).is_some()
    }

    /// When it should have come, where [`Self::awaits_response`] says so.
    pub(crate) fn response_due(&self, now: Instant) -> Option<Instant> {
        let attempt = self.attempt.filter(|attempt| attempt.initiations == 1 || attempt.responded)?;
        Some(attempt.next).filter(|next| now < *next)
    }

    /// Whether a response came to an initiation of the handshake under way.
    pub(crate) fn is_responded(&self) -> bool {
        self.attempt.is_some_and(|attempt| attempt.responded)
    }

    /// A session began at `since`, by our handshake or by the peer's. Where both sides initiated at once there are two sessions,
    /// and either side may send in the one that the other initiated: then both count as initiators, and the first to send renews.
    pub(crate) fn established(&mut self, since: Instant, initiator: bool) {
        let both_asked = |other: &Session| other.initiator && since < other.since + REKEY_TIMEOUT;
        let initiator = initiator || self.session.as_ref().is_some_and(both_asked);
        self.attempt = None;
        self.unanswered = None;
        self.session = Some(Session { since, initiator });
    }

    /// All sessions were ended, because the device's key changed.
    pub(crate) fn sessions_ended(&mut self) {
        self.session = None;
        self.unanswered = None;
        self.unacknowledged = None;
    }

    /// An authenticated message was sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.unacknowledged = None;
        self.last_traffic = now;
    }

    /// A data packet was sent. True where the session is so old that a new handshake should begin.
    pub(crate) fn data_sent(&mut self, now: Instant) -> bool {
        self.sent(now);
        self.unanswered.get_or_insert(now);
        self.is_initiator_beyond(REKEY_AFTER, now)
    }

    /// An authentic message was received.
    pub(crate) fn received(&mut self, now: Instant) {
        self.unanswered = None;
        self.last_traffic = now;
    }

    /// A data packet was received. True where the session expires soon, and renewing it is ours to do as its initiator.
    pub(crate) fn data_received(&mut self, now: Instant) -> bool {
        self.received(now);
        self.unacknowledged.get_or_insert(now);
        self.is_initiator_beyond(REJECT_AFTER - KEEPALIVE_AFTER - REKEY_TIMEOUT, now)
    }

    /// A keepalive was sent. True as for [`Self::data_sent`].
    pub(crate) fn keepalive_sent(&mut self, now: Instant) -> bool {
        self.sent(now);
        self.is_initiator_beyond(REKEY_AFTER, now)
    }

    fn is_initiator_beyond(&self, age: Duration, now: Instant) -> bool {
        self.session.is_some_and(|session| session.initiator && now >= session.since + age)
    }

    /// What is due now; to be called until it returns `None`. `reachable`: the peer has an endpoint.
    pub(crate) fn due(&mut self, now: Instant, reachable: bool) -> Option<Due> {
        if self.session.is_some_and(|session| now >= session.since + REJECT_AFTER) {
            self.session = None;
        }
        if !reachable {
            self.attempt = None;
            return None;
        }
        if self.attempt.is_some_and(|attempt| now >= attempt.began + REKEY_ATTEMPT) {
            (self.attempt, self.unanswered, self.round_trip) = (None, None, None);
            return Some(Due::GiveUp);
        }
        if self.unanswered.is_some_and(|since| now >= since + KEEPALIVE_AFTER + REKEY_TIMEOUT) {
            self.unanswered = None;
            if self.want_handshake(now) {
                return Some(Due::Initiate { again: true });
            }
        }
        if let Some(attempt) = self.attempt.filter(|attempt| now >= attempt.next) {
            return Some(Due::Initiate { again: attempt.initiations > 0 });
        }
        let passive = self.unacknowledged.is_some_and(|since| now >= since + KEEPALIVE_AFTER);
        let persistent = self.keepalive.is_some_and(|interval| now >= self.last_traffic + interval);
        if !passive && !persistent {
            return None;
        }
        if self.session.is_some() {
            return Some(Due::Keepalive);
        }
        self.unacknowledged = None;
        self.last_traffic = now;
        (persistent && self.want_handshake(now)).then_some(Due::Initiate { again: false })
    }

    /// When to call [`Self::due`] again.
    pub(crate) fn next(&self, reachable: bool) -> Option<Instant> {
        if !reachable {
            return None;
        }
        let handshake = self.attempt.map(|attempt| attempt.next.min(attempt.began + REKEY_ATTEMPT));
        let unanswered = self.unanswered.map(|since| since + KEEPALIVE_AFTER + REKEY_TIMEOUT);
        let passive = self.unacknowledged.map(|since| since + KEEPALIVE_AFTER);
        let persistent = self.keepalive.map(|interval| self.last_traffic + interval);
        [handshake, unanswered, passive, persistent].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    /// Steps from timer to timer, and lists what was due, with the milliseconds since the start.
    fn run(timers: &mut Timers, start: Instant, until: Duration) -> Vec<(u128, Due)> {
        let mut seen = Vec::new();
        let mut now = start;
        while now <= start + until {
            while let Some(due) = timers.due(now, true) {
                seen.push(((now - start).as_millis(), due));
                match due {
                    Due::Initiate { .. } => timers.initiation_sent(now, 100 * MS),
                    Due::Keepalive => timers.sent(now),
                    Due::GiveUp => {}
                }
            }
            let Some(next) = timers.next(true) else { break };
            assert!(next > now, "the next timer is not in the future");
            now = next;
        }
        seen
    }

    #[test]
    fn a_handshake_is_retried_quickly_at_first_and_given_up_in_the_end() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        assert!(timers.want_handshake(start) && !timers.want_handshake(start));
        let seen = run(&mut timers, start, 200 * S);
        let times: Vec<u128> = seen.iter().map(|(at, _)| *at).collect();
        assert_eq!(times[..7], [0, 250, 750, 1750, 3750, 8850, 13950]);
        assert_eq!(seen[0].1, Due::Initiate { again: false });
        assert_eq!(seen.last(), Some(&(90_000, Due::GiveUp)));
    }

    #[test]
    fn a_persistent_keepalive_keeps_initiating_handshakes() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.set_keepalive(Some(25 * S), start);
        let seen = run(&mut timers, start, 300 * S);
        assert_eq!(seen[0], (0, Due::Initiate { again: false }), "the first is due at once");
        let gave_up: Vec<u128> = seen.iter().filter(|(_, due)| *due == Due::GiveUp).map(|(at, _)| *at).collect();
        assert!(gave_up.len() >= 2, "{seen:?}");
        let after = seen.iter().find(|(at, _)| *at > gave_up[0]).unwrap();
        assert!(after.0 - gave_up[0] <= 25_000, "{after:?}");
        assert!(!seen.iter().any(|(_, due)| *due == Due::Keepalive), "no keepalive without a session");
    }

    #[test]
    fn a_persistent_keepalive_under_a_session() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.established(start, false);
        timers.received(start);
        timers.set_keepalive(Some(25 * S), start);
        let seen = run(&mut timers, start, 60 * S);
        assert_eq!(seen, [(0, Due::Keepalive), (25_000, Due::Keepalive), (50_000, Due::Keepalive)]);
    }

    #[test]
    fn received_data_is_acknowledged_once() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.established(start, false);
        timers.data_received(start);
        timers.data_received(start + 4 * S);
        assert_eq!(run(&mut timers, start, 100 * S), [(10_000, Due::Keepalive)]);
    }

    #[test]
    fn unanswered_data_begins_a_handshake_counted_from_the_first_packet() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.established(start, false);
        timers.received(start + 50 * S);
        timers.data_sent(start + 60 * S);
        timers.data_sent(start + 70 * S);
        assert_eq!(timers.next(true), Some(start + 75 * S));
        assert_eq!(timers.due(start + 74 * S, true), None);
        assert_eq!(timers.due(start + 75 * S, true), Some(Due::Initiate { again: true }));
        timers.received(start + 76 * S);
        timers.data_sent(start + 77 * S);
        timers.received(start + 77 * S);
        timers.established(start + 77 * S, true);
        assert_eq!(timers.next(true), None, "answered data waits for nothing");
    }

    #[test]
    fn responses_that_are_held_back_delay_little() {
        let mut timers = Timers::new(Instant::now());
        for (by, most) in [(Path::Udp, 19 * S), (Path::Stream, 7 * S)] {
            timers.responded(60 * S, by);
            assert!(timers.response_time() < most, "{by:?}");
        }
    }

    #[test]
    fn only_the_initiator_renews() {
        let start = Instant::now();
        for initiator in [true, false] {
            let mut timers = Timers::new(start);
            timers.established(start, initiator);
            assert!(!timers.data_sent(start + 119 * S));
            assert_eq!(timers.data_sent(start + 120 * S), initiator);
            assert!(!timers.data_received(start + 164 * S));
            assert_eq!(timers.data_received(start + 165 * S), initiator);
        }
    }

    #[test]
    fn nothing_is_due_without_an_endpoint() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.set_keepalive(Some(S), start);
        timers.want_handshake(start);
        assert_eq!(timers.due(start + 9 * S, false), None);
        assert_eq!(timers.next(false), None);
        assert!(!timers.is_handshaking());
    }
}
