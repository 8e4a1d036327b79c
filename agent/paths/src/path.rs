//! Which path packets to one peer take: direct UDP, the gateway, or both.
//!
//! A WireGuard session does not care which path its datagrams take, so the choice can change from one packet to the next
//! without either end noticing. [`Selector`] makes it for one peer, without I/O, clock or randomness: what happens goes
//! in; it says which paths carry the next datagram ([`Selector::route`]), which probes to send ([`Selector::poll_transmit`]) and when to be
//! woken ([`Selector::poll_timeout`]).
//!
//! # What decides
//!
//! Only round trips inside the tunnel: probes of the tunnel's full size where packets go, numbered, answered by the path they came
//! by. Handshakes, open sockets and packets that come in prove less, or something else.
//!
//! | | |
//! |---|---|
//! | talking (packets went to the peer within 5 s) | the path that carries them is probed every 250 ms |
//! | this host's network changed | every path is probed at once, and every 250 ms for 3 s until it answers |
//! | not talking | every path is probed every 25 s, and of these probes one in 5 min is of full size |
//! | two probes in a row are late (no answer 100 ms after a round trip) | packets go by all paths until one is answered |
//! | one is, and since it was sent packets of the peer came by another path | the same |
//! | nothing answered for 1 s and a round trip, or lost 2 of the last 4 probes or 4 of 16 | the path is suspect: packets go by all paths |
//! | the peer's packets come by another path, this one was not proved lately | suspect too, until its next probe is answered |
//! | suspect for 3 s in all, with less than 10 s in between, while another passed 11 of 12 probes | the other path carries the packets: a switch |
//! | path gone (stream closed, no endpoint) | the same, at once |
//! | a better path is clean for 10 s (2 s if it never failed) and 10 answers | back: a switch. Each failure in a row makes it 5 s more, up to 20 s |
//!
//! Each end chooses for what it sends. A fault that one end cannot see in its own direction is seen by the other in its own.
//!
//! # How the agent carries probes
//!
//! As UDP datagrams between the two mesh addresses, from [`PORT`] to [`PORT`], made and taken by the device itself: it seals each
//! for the path that [`Transmit`] names and for no other, notes which path an opened one came by, and hands it to
//! [`Selector::handle_probe`] instead of to the interface. Packets with that port that come from the own interface must be dropped,
//! so that no program on a node can speak for its agent. Probes must not count as [`Selector::sent`]. Where a path has a queue of its
//! own (a stream), probes are the last to be dropped from it: a sender's overload is no fault of the path. A datagram that took a
//! slow path must still be inside the session's replay window when a fast one has overtaken it, or the slow path looks dead while
//! the fast one is busy.
//!
//! # What a hostile peer can do
//!
//! It is authenticated by WireGuard before anything gets here, so it can only harm its own traffic, as it could by dropping it.
//! That it stops, it can say of itself alone. What it sends is of fixed size and read with bounds; replies that answer nothing, answer
//! again, or come by another path are refused; requests are answered by 64 bytes, never more than they had, 40 times a second at most;
//! all memory is bounded.

mod choice;
mod device;
mod echoes;
pub mod packet;
mod probe;
mod report;
mod rtt;
mod run;
mod suspicion;
mod track;

use std::{collections::VecDeque, time::Duration};

pub use mesh_core::path::{KINDS, PathKind, PathReport, PerPath, Report, Switch, Trouble, rank};
use mesh_core::status::Reason;

pub use self::{
    device::{device_path, kind_of},
    probe::{Hearing, LARGEST, Message, MessageKind, ProbeError, SMALL},
};
use self::{
    echoes::Size,
    run::{Heard, Runs, first_of_run},
    suspicion::Suspicion,
    track::{Part, Track},
};
use crate::rng::jitter;

/// Source and destination port of probes, between mesh addresses.
pub const PORT: u16 = 51823;
/// IPv4 and UDP headers before a probe message.
pub const HEADERS: u16 = 28;

/// Packets to the peer keep its paths under observation for so long.
const TALKING: Duration = Duration::from_secs(5);
/// Answers to a peer's requests: one in this time, and [`BURST`] at once.
const ANSWER_EVERY: Duration = Duration::from_millis(25);
const BURST: u32 = 40;
/// Messages and switches that the driver has not taken; more than one call ever makes.
const WAITING: usize = 64;

/// A probe message to send by one path, and by no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The path.
    pub path: PathKind,
    /// Payload of the UDP datagram.
    pub payload: Vec<u8>,
}

/// The paths to one peer.
///
/// The driver's loop: feed what happens, with the monotonic time; after each call drain [`Selector::poll_transmit`], compare
/// [`Selector::route`] with what the device has, and be back with [`Selector::handle_timeout`] at [`Selector::poll_timeout`]. What the
/// data plane sent and received may come in batches, at most 100 ms late.
#[derive(Debug, Clone)]
pub struct Selector {
    /// Bytes of a probe message that fills the tunnel's MTU.
    full: u16,
    seed: u64,
    sequence: u64,
    tracks: PerPath<Track>,
    clock: Duration,
    talked: Option<Duration>,
    /// The path that carries packets; `None` while there is none at all.
    primary: Option<PathKind>,
    primary_since: Duration,
    /// Whether the primary is not to be relied on.
    suspicion: Suspicion,
    /// The primary has to answer a probe sent since then.
    doubt: Option<Duration>,
    /// The primary's answers are late: packets go by all paths, although it is not suspect yet.
    is_late: bool,
    /// The paths that datagrams take.
    taken: PerPath<bool>,
    switches: u64,
    answers: Duration,
    /// The runs of the peer's agent, and whether the last one stopped.
    runs: Runs,
    transmits: VecDeque<Transmit>,
    log: VecDeque<Switch>,
}

impl Selector {
    /// No path yet. `mtu` is the tunnel's; `seed` is random, another for each peer and each run of the agent: it spreads
    /// probes over time, and its upper half is that of every number, so that neither replies to an earlier run nor its stop messages
    /// fit this one.
    #[must_use]
    pub fn new(mtu: u16, seed: u64, now: Duration) -> Self {
        let mut paths = Self {
            full: 0,
            seed,
            sequence: first_of_run(seed),
            tracks: KINDS.map(|_| Track::default()),
            clock: now,
            talked: None,
            primary: None,
            primary_since: now,
            suspicion: Suspicion::default(),
            doubt: None,
            is_late: false,
            taken: PerPath::default(),
            switches: 0,
            answers: now,
            runs: Runs::default(),
            transmits: VecDeque::new(),
            log: VecDeque::new(),
        };
        paths.set_mtu(mtu);
        paths
    }

    /// The tunnel's MTU is this now: full-size probes follow it.
    pub fn set_mtu(&mut self, mtu: u16) {
        let smallest = u16::try_from(SMALL).unwrap_or(u16::MAX);
        self.full = mtu.saturating_sub(HEADERS).max(smallest);
    }

    /// There is a path of this kind now, or it leads somewhere else than before: an endpoint is known, a stream is open. Not
    /// called for a stream that replaces another before that one ends.
    pub fn path_up(&mut self, kind: PathKind, now: Duration) {
        let now = self.at(now);
        self.track_mut(kind).come_up(now);
        self.advance(now);
    }

    /// There is no path of this kind any more, or it could not be had.
    pub fn path_away(&mut self, kind: PathKind, reason: Option<Reason>, now: Duration) {
        let now = self.at(now);
        self.track_mut(kind).go_away(reason);
        self.advance(now);
    }

    /// Something happened that may have changed any path (an address, a route, a link, a wake-up): every path is probed within
    /// 100 ms, and every 250 ms for 3 s until it answers, and packets go by all until the one in use has. By its first probe that
    /// leaves from another address than before, the peer learns where this node is now.
    pub fn retry(&mut self, now: Duration) {
        let now = self.at(now);
        for kind in KINDS {
            let is_asked = self.track_mut(kind).ask(now);
            if self.primary == Some(kind) && is_asked {
                self.doubt = Some(now);
            }
        }
        self.advance(now);
    }

    /// One path has to prove itself: it is probed now, and every 250 ms for 3 s until it answers. Packets go where they went.
    pub fn ask(&mut self, kind: PathKind, now: Duration) {
        let now = self.at(now);
        self.track_mut(kind).ask(now);
        self.advance(now);
    }

    /// When something of the peer came last by this path: a packet of applications or a probe.
    #[must_use]
    pub const fn heard(&self, kind: PathKind) -> Option<Duration> {
        self.tracks[rank(kind)].heard
    }

    /// Nothing is known to be wrong with this path.
    #[must_use]
    pub fn is_usable(&self, kind: PathKind, now: Duration) -> bool {
        self.tracks[rank(kind)].trouble(now).is_none()
    }

    /// Packets of applications went to the peer (not keepalives, handshakes or probes).
    pub fn sent(&mut self, now: Duration) {
        let now = self.at(now);
        let talking = self.is_talking(now);
        self.talked = Some(now);
        if !talking {
            // A suspicion of idle days is no reason to leave a path before it was asked.
            self.suspicion.restart(now);
            self.advance(now);
        }
    }

    /// Packets of applications came from the peer by this path (not keepalives, handshakes or probes). A datagram that is dropped
    /// because it came before by another path does not count.
    pub fn received(&mut self, kind: PathKind, now: Duration) {
        let now = self.at(now);
        let track = self.track_mut(kind);
        (track.heard, track.received) = (Some(now), Some(now));
        if self.is_doubtful_after_hearing(kind, now) {
            self.doubt = Some(now);
            self.advance(now);
        }
    }

    /// A datagram between the probe ports came from the peer by this path.
    ///
    /// # Errors
    /// [`ProbeError`]: what was wrong with it. It proves nothing then, and nothing needs to be done but to count it.
    pub fn handle_probe(&mut self, kind: PathKind, payload: &[u8], now: Duration) -> Result<(), ProbeError> {
        let now = self.at(now);
        let message = Message::parse(payload)?;
        if message.path != kind {
            return Err(ProbeError::OtherPath);
        }
        match message.kind {
            MessageKind::Request => {
                if self.runs.heard(message.sequence) == Heard::Restarted {
                    // What was lost while it was not there is no loss of its paths.
                    self.tracks.iter_mut().for_each(|track| track.echoes.interrupt());
                }
                // Also where the run that asks is over: an answer says nothing but that the question passed.
                self.answer(&message, now)?;
            }
            MessageKind::Stopping if !self.runs.stops(message.sequence, now) => return Err(ProbeError::OtherRun),
            MessageKind::Stopping => {}
            MessageKind::Reply if !self.track_mut(kind).answered(message.sequence, now) => {
                return Err(ProbeError::Unasked(message.sequence));
            }
            MessageKind::Reply if self.is_talking(now) => self.track_mut(kind).follow_up(now),
            MessageKind::Reply => {}
        }
        self.track_mut(kind).heard = Some(now);
        for (track, hearing) in self.tracks.iter_mut().zip(message.hearing) {
            track.peer_hears = hearing.map(|hearing| (hearing, now)).or(track.peer_hears);
        }
        self.advance(now);
        Ok(())
    }

    /// What tells the peer that this node stops, by each path that there is. Nothing else is sent to it any more.
    #[must_use]
    pub fn stop_messages(&mut self, now: Duration) -> Vec<Transmit> {
        let now = self.at(now);
        self.sequence = self.sequence.wrapping_add(1);
        let (sequence, hearing) = (self.sequence, self.hearing(now));
        let up = KINDS.into_iter().filter(|&kind| self.tracks[rank(kind)].is_up());
        let message = |path| Message { kind: MessageKind::Stopping, path, sequence, hearing };
        up.map(|path| Transmit { path, payload: message(path).encode(SMALL) }).collect()
    }

    /// Time has passed. Called at [`Selector::poll_timeout`]; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Duration) {
        let now = self.at(now);
        self.advance(now);
    }

    /// The next message to send, until there is none.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next change of the path in use that was not asked for yet, for logs and metrics. The oldest are forgotten if it is
    /// not called.
    #[must_use]
    pub fn poll_switch(&mut self) -> Option<Switch> {
        self.log.pop_front()
    }

    /// When to call [`Selector::handle_timeout`], if nothing happens before; `None` while there is no path. It may have passed: then
    /// at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let talking = self.is_talking(self.clock);
        let probes = KINDS.into_iter().filter_map(|kind| self.probe_due(kind, talking));
        let silent = self.primary.filter(|_| !self.suspicion.is_raised()).into_iter().flat_map(|kind| {
            let echoes = &self.tracks[rank(kind)].echoes;
            let late = self.late_at().filter(|_| !self.is_late);
            [echoes.silent_at(Size::Small), echoes.silent_at(Size::Full), late].into_iter().flatten()
        });
        probes.chain(silent).min()
    }

    /// Takes the time, which never goes back here.
    fn at(&mut self, now: Duration) -> Duration {
        self.clock = self.clock.max(now);
        self.clock
    }

    const fn track_mut(&mut self, kind: PathKind) -> &mut Track {
        &mut self.tracks[rank(kind)]
    }

    fn is_talking(&self, now: Duration) -> bool {
        self.talked.is_some_and(|talked| now.saturating_sub(talked) < TALKING)
    }

    /// Answers by the path that the request came by, within the limits.
    fn answer(&mut self, request: &Message, now: Duration) -> Result<(), ProbeError> {
        let track = self.track_mut(request.path);
        track.requests = track.requests.saturating_add(1);
        if self.answers > now + ANSWER_EVERY * BURST {
            return Err(ProbeError::Flood);
        }
        self.answers = self.answers.max(now) + ANSWER_EVERY;
        let reply = Message {
            kind: MessageKind::Reply,
            path: request.path,
            sequence: request.sequence,
            hearing: self.hearing(now),
        };
        self.transmit(Transmit { path: request.path, payload: reply.encode(SMALL) });
        Ok(())
    }

    /// Chooses, and sends the probes that are due. One that follows upon an older one without an answer may make its path suspect,
    /// and other paths' probes due with it.
    fn advance(&mut self, now: Duration) {
        self.choose(now);
        self.probe(now);
        self.choose(now);
        self.probe(now);
    }

    fn probe(&mut self, now: Duration) {
        let talking = self.is_talking(now);
        for kind in KINDS {
            if self.probe_due(kind, talking).is_some_and(|at| at <= now) {
                let sizes = self.tracks[rank(kind)].sizes(self.part(kind), talking, now);
                for &size in sizes {
                    self.request(kind, size, now);
                }
            }
        }
    }

    fn request(&mut self, kind: PathKind, size: Size, now: Duration) {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = match size {
            Size::Small => SMALL,
            Size::Full => self.full.into(),
        };
        let message =
            Message { kind: MessageKind::Request, path: kind, sequence: self.sequence, hearing: self.hearing(now) };
        let payload = message.encode(bytes);
        let bytes = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let (sequence, jitter) = (self.sequence, jitter(self.seed, self.sequence));
        self.track_mut(kind).probed(sequence, size, bytes, jitter, now);
        self.transmit(Transmit { path: kind, payload });
    }

    fn transmit(&mut self, transmit: Transmit) {
        if self.transmits.len() == WAITING {
            self.transmits.pop_front();
        }
        self.transmits.push_back(transmit);
    }

    fn hearing(&self, now: Duration) -> PerPath<Option<Hearing>> {
        let of = |track: &Track| Hearing {
            age: track.heard.map(|heard| now.saturating_sub(heard)),
            requests: track.requests,
        };
        std::array::from_fn(|rank| self.tracks[rank].is_up().then(|| of(&self.tracks[rank])))
    }

    fn probe_due(&self, kind: PathKind, talking: bool) -> Option<Duration> {
        self.tracks[rank(kind)].due(self.part(kind), talking, self.clock)
    }

    fn part(&self, kind: PathKind) -> Part {
        let up = self.tracks.iter().filter(|track| track.is_up()).count();
        if up < 2 {
            Part::Alone
        } else if self.carries(kind) {
            Part::Carries
        } else if self.primary.is_some_and(|primary| rank(kind) < rank(primary)) {
            Part::Better
        } else {
            Part::Standby
        }
    }
}
