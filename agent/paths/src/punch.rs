//! Finding a direct path to one peer: both ends tell each other where they may be reached, and both try at the same time.
//!
//! Most NATs let in only what comes from an address that something was sent to before: an attempt from one side
//! alone is dropped. So the ends talk by the gateway path, inside the tunnel. An attempt is one WireGuard handshake initiation: it
//! opens the own NAT for the other end's, and a path is found when one is answered. [`Punch`] decides, without I/O, clock or
//! randomness: what happens goes in; it says what to send ([`Punch::poll_transmit`]), which addresses to try
//! ([`Punch::poll_try`]) and when to be woken ([`Punch::poll_timeout`]). Whether the path that is found is any good is for
//! [`crate::path`] to find out.
//!
//! # A round
//!
//! One end calls with its list of addresses; the other answers with its own and begins to try; the caller begins with the answer. A
//! call is repeated 0.5, 1.5 and 3.5 s later if nothing answers. Each address is tried at 0, 200, 400, 800 and 1600 ms, four
//! addresses side by side. A round begins
//!
//! | | |
//! |---|---|
//! | at once, if never within a second of the last | the gateway path came up, direct UDP failed, an own address is new, [`Punch::retry`] |
//! | after 5 s, 10 s, 30 s, and from then on every 5 min (and up to a fifth of that) | direct UDP does not work yet |
//!
//! While direct UDP works for both, neither tries anything, nor where it works for the caller: then the other is about to find the same,
//! or calls itself. Calls are then made only when there is news: when the first path to the
//! peer came up, and when the peer is seen at another address. That is how a node behind a NAT learns its address from a peer that has
//! none, and can tell the others.
//!
//! # Which addresses
//!
//! Everything that may be one host: the reflexive address also where both are behind the same NAT (hairpin), and private addresses
//! unless both are known to be behind different NATs.
//!
//! # What a hostile peer can do
//!
//! It is authenticated by WireGuard before anything gets here. It can name addresses of others, and is why attempts are few: 40 in
//! 10 s and 240 in 5 min at most, whatever it says, each of 148 bytes that only a peer answers. What it says of this node's own
//! address is a hint, and never more than another address to try: of what all peers say two new addresses a minute are passed on,
//! and none that a single one names where a STUN server has answered. Messages are read with bounds, calls answered four times a
//! second at most, and all memory is bounded.

mod address;
mod message;
mod reflexive;
mod rounds;
mod tries;

use std::{net::SocketAddr, time::Duration};

pub use self::{
    message::{CANDIDATES, LARGEST, Message, MessageKind, PunchError, is_message},
    reflexive::Reflexive,
};
use self::{rounds::Rounds, tries::Tries};
use mesh_core::network::MeshNetwork;

/// Answers to a peer's calls: one in this time, and [`BURST`] at once.
const ANSWER_EVERY: Duration = Duration::from_millis(250);
const BURST: u32 = 8;
/// What one peer says of our address is news once in this time.
const HINT_EVERY: Duration = Duration::from_secs(60);

/// The attempts to reach one peer directly.
///
/// The driver's loop: feed what happens, with the monotonic time; after each call drain [`Punch::poll_transmit`],
/// [`Punch::poll_try`] and [`Punch::poll_seen_by_peer`], and be back with [`Punch::handle_timeout`] at [`Punch::poll_timeout`].
#[derive(Debug, Clone)]
pub struct Punch {
    mesh: MeshNetwork,
    clock: Duration,
    own: Vec<SocketAddr>,
    seen: Option<SocketAddr>,
    /// The last address that was sent to the peer as its own.
    seen_sent: Option<SocketAddr>,
    gateway: bool,
    direct: bool,
    rounds: Rounds,
    tries: Tries,
    /// The peer's call that waits for its answer, the last if there are more.
    answer: Option<u32>,
    /// Until when answers are promised.
    answers: Duration,
    hint: Option<SocketAddr>,
    hint_given: Option<(SocketAddr, Duration)>,
}

impl Punch {
    /// No path to the peer yet. No address of `mesh` is ever tried. `seed` is random, another for each peer: it spreads rounds over
    /// time and begins the calls' numbers where answers to an earlier run of the agent do not fit.
    #[must_use]
    pub fn new(mesh: MeshNetwork, seed: u64, now: Duration) -> Self {
        Self {
            mesh,
            clock: now,
            own: Vec::new(),
            seen: None,
            seen_sent: None,
            gateway: false,
            direct: false,
            rounds: Rounds::new(seed),
            tries: Tries::default(),
            answer: None,
            answers: now,
            hint: None,
            hint_given: None,
        }
    }

    /// Where this node may be reached, best first: reflexive ([`Reflexive::candidates`]), registered, local. Of those that may be
    /// one host the first [`CANDIDATES`] count. The whole list each time, also if it is as before.
    pub fn set_own(&mut self, candidates: &[SocketAddr]) {
        let mut own = Vec::new();
        for address in candidates.iter().filter_map(|&address| address::worth_trying(address, self.mesh)) {
            if own.len() < CANDIDATES && !own.contains(&address) {
                own.push(address);
            }
        }
        let is_new = own.iter().any(|address| !self.own.contains(address));
        self.own = own;
        if is_new && self.gateway && !self.direct {
            self.rounds.restart(self.clock);
        }
    }

    /// Where we see the peer, when direct UDP with it is proved: sent to it as its reflexive address.
    pub fn set_seen(&mut self, seen: Option<SocketAddr>) {
        let seen = seen.and_then(|address| address::worth_trying(address, self.mesh));
        self.seen = seen;
        if self.has_news() && self.has_path() {
            self.rounds.restart(self.clock);
        }
    }

    /// The gateway path to the peer is there, or is not.
    pub fn gateway(&mut self, is_up: bool, now: Duration) {
        let now = self.at(now);
        let came_up = is_up && !self.gateway;
        self.gateway = is_up;
        if came_up && !self.direct {
            self.rounds.restart(now);
        }
        self.advance(now);
    }

    /// Direct UDP with the peer works, proved by a round trip inside the tunnel, or does not.
    pub fn direct(&mut self, works: bool, now: Duration) {
        let now = self.at(now);
        if works != self.direct {
            let had_way = self.has_path();
            self.direct = works;
            if works {
                self.tries.stop();
                self.rounds.rest();
            }
            if !works || !had_way || self.has_news() {
                self.rounds.restart(now);
            }
        }
        self.advance(now);
    }

    /// Something happened that may have changed any path (an address, a route, a link, a wake-up).
    pub fn retry(&mut self, now: Duration) {
        let now = self.at(now);
        if !self.direct {
            self.rounds.restart(now);
        }
        self.advance(now);
    }

    /// A datagram between the probe ports came from the peer, and [`is_message`].
    ///
    /// # Errors
    /// [`PunchError`]: what was wrong with it. Nothing needs to be done then but to count it.
    pub fn handle_message(&mut self, payload: &[u8], now: Duration) -> Result<(), PunchError> {
        let now = self.at(now);
        let message = Message::parse(payload)?;
        // A caller that has direct UDP had a round trip by it: our own is about to be proved as well, or we shall call ourselves.
        let is_wanted = match message.kind {
            MessageKind::Call => {
                if self.answers > now + ANSWER_EVERY * BURST {
                    return Err(PunchError::Flood);
                }
                self.answers = self.answers.max(now) + ANSWER_EVERY;
                self.answer = Some(message.round);
                if message.lacks_direct {
                    self.rounds.was_called(now);
                }
                message.lacks_direct
            }
            MessageKind::Answer if !self.rounds.answered(message.round) => {
                return Err(PunchError::Unasked(message.round));
            }
            MessageKind::Answer => message.lacks_direct || !self.direct,
        };
        let worth = |address| address::worth_trying(address, self.mesh);
        self.hint = message.seen.and_then(worth).or(self.hint);
        if is_wanted {
            let theirs = message.candidates.into_iter().filter_map(worth).collect();
            self.tries.add(address::targets(&self.own, theirs), now);
        }
        self.advance(now);
        Ok(())
    }

    /// Time has passed. Called at [`Punch::poll_timeout`]; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Duration) {
        let now = self.at(now);
        self.advance(now);
    }

    /// The next message to send, until there is none: by the gateway path, or by direct UDP where that alone is there.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if !self.has_path() {
            self.answer = None;
            return None;
        }
        let (kind, round) = match self.answer.take() {
            Some(round) => (MessageKind::Answer, round),
            None => (MessageKind::Call, self.rounds.poll_call(!self.direct, self.clock)?),
        };
        self.seen_sent = self.seen.or(self.seen_sent);
        let message =
            Message { kind, lacks_direct: !self.direct, round, candidates: self.own.clone(), seen: self.seen };
        Some(message.encode())
    }

    /// The next address to send a handshake initiation to, until there is none.
    #[must_use]
    pub fn poll_try(&mut self) -> Option<SocketAddr> {
        self.tries.pop()
    }

    /// Where the peer says that it sees this node, when that is news: for [`Reflexive::set_peer`], and so for all other peers.
    #[must_use]
    pub fn poll_seen_by_peer(&mut self) -> Option<SocketAddr> {
        if self.hint_due()? > self.clock {
            return None;
        }
        self.hint_given = self.hint.map(|hint| (hint, self.clock));
        self.hint
    }

    /// When to call [`Punch::handle_timeout`], if nothing happens before. It may have passed: then at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let hint = self.hint_due().filter(|due| *due > self.clock);
        self.tries.poll_timeout().into_iter().chain(self.rounds.poll_timeout()).chain(hint).min()
    }

    /// Takes the time, which never goes back here.
    fn at(&mut self, now: Duration) -> Duration {
        self.clock = self.clock.max(now);
        self.clock
    }

    fn advance(&mut self, now: Duration) {
        if !self.has_path() {
            self.rounds.stop();
        }
        self.tries.advance(now);
    }

    const fn has_path(&self) -> bool {
        self.gateway || self.direct
    }

    /// The peer is seen at an address that it was not sent yet.
    fn has_news(&self) -> bool {
        self.seen.is_some() && self.seen != self.seen_sent
    }

    fn hint_due(&self) -> Option<Duration> {
        match self.hint_given {
            None => self.hint.map(|_| Duration::ZERO),
            Some((last, at)) => (self.hint != Some(last)).then(|| at + HINT_EVERY),
        }
    }
}
