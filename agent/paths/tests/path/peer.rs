//! A peer made of cardboard: it answers the probes of one machine as the test says, and the clock moves when the test says.

use std::{collections::BTreeMap, time::Duration};

use mesh_paths::path::{
    KINDS, Message, MessageKind, PathKind, PathReport, PerPath, ProbeError, SMALL, Selector, Switch, Trouble, rank,
};

use crate::link::Dice;

/// What becomes of the probes on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    All,
    None,
    /// Only those that are short.
    Small,
    /// All but so many of a thousand.
    Loses(u64),
}

/// One request that the machine sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) by: PathKind,
    pub(crate) bytes: usize,
    pub(crate) sequence: u64,
}

/// The machine under test, and its peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) paths: Selector,
    pub(crate) now: Duration,
    pub(crate) answers: PerPath<Answers>,
    /// Packets go to the peer all the time.
    pub(crate) talks: bool,
    /// Packets come from the peer by this path all the time.
    pub(crate) hears: Option<PathKind>,
    /// There and back.
    pub(crate) rtt: Duration,
    pub(crate) sent: Vec<Sent>,
    replies: BTreeMap<(Duration, u64), (PathKind, Vec<u8>)>,
    next_packet: Duration,
    pub(crate) dice: Dice,
}

pub(crate) const EVERY: Duration = Duration::from_millis(50);
pub(crate) const START: Duration = Duration::from_secs(100);

impl Peer {
    /// Both paths are there and answer.
    pub(crate) fn new() -> Self {
        let mut peer = Self::without_paths();
        KINDS.into_iter().for_each(|kind| peer.up(kind));
        peer
    }

    pub(crate) fn without_paths() -> Self {
        Self {
            paths: Selector::new(1420, 0x5eed, START),
            now: START,
            answers: [Answers::All; 2],
            talks: false,
            hears: None,
            rtt: Duration::from_millis(20),
            sent: Vec::new(),
            replies: BTreeMap::new(),
            next_packet: START,
            dice: Dice::new(7),
        }
    }

    /// Both paths work and the machine is sure of it.
    pub(crate) fn talking() -> Self {
        let mut peer = Self::new();
        peer.talks = true;
        peer.run(5.0);
        assert_eq!(peer.by(), (Some(PathKind::Direct), false));
        peer
    }

    pub(crate) fn up(&mut self, kind: PathKind) {
        self.paths.path_up(kind, self.now);
        self.drain();
    }

    pub(crate) fn away(&mut self, kind: PathKind) {
        self.paths.path_away(kind, None, self.now);
        self.drain();
    }

    /// The path in use, and whether packets go by others too.
    pub(crate) fn by(&self) -> (Option<PathKind>, bool) {
        let route = self.route();
        (route.primary(), route.is_hedged())
    }

    pub(crate) fn route(&self) -> &Selector {
        &self.paths
    }

    /// The path in use is suspect.
    pub(crate) fn is_suspect(&self) -> bool {
        self.paths.report(self.now).suspect_for.is_some()
    }

    pub(crate) fn report(&self, kind: PathKind) -> PathReport {
        self.paths.report(self.now).paths[rank(kind)]
    }

    /// Lets seconds pass.
    pub(crate) fn run(&mut self, seconds: f64) {
        self.run_until(Duration::from_secs_f64(seconds), |_| false);
    }

    /// Lets time pass until `done`, and tells how long it took; at most `time`.
    pub(crate) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let (begin, end) = (self.now, self.now + time);
        self.drain();
        while !done(self) {
            let packet = (self.talks || self.hears.is_some()).then_some(self.next_packet);
            let reply = self.replies.first_key_value().map(|(&(at, _), _)| at);
            let next = [self.paths.poll_timeout(), packet, reply].into_iter().flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else {
                self.now = end;
                break;
            };
            self.now = self.now.max(next);
            if reply.is_some_and(|at| at <= self.now) {
                let (_, (by, reply)) = self.replies.pop_first().unwrap();
                let _ = self.paths.handle_probe(by, &reply, self.now); // refused if the path was gone in between
            } else if packet.is_some_and(|at| at <= self.now) {
                self.next_packet = self.now + EVERY;
                self.talk();
            } else {
                self.paths.handle_timeout(self.now);
                let next = self.paths.poll_timeout();
                assert!(next.is_none_or(|next| next > self.now), "woken at {:?} for nothing", self.now);
            }
            self.drain();
        }
        self.now - begin
    }

    fn talk(&mut self) {
        if self.talks {
            self.paths.sent(self.now);
        }
        if let Some(kind) = self.hears {
            self.paths.received(kind, self.now);
        }
    }

    /// Takes what the machine sends, and has the peer answer it.
    fn drain(&mut self) {
        while let Some(transmit) = self.paths.poll_transmit() {
            let message = Message::parse(&transmit.payload).unwrap();
            assert_eq!(message.path, transmit.path);
            if message.kind == MessageKind::Reply {
                continue;
            }
            let bytes = transmit.payload.len();
            let by = transmit.path;
            self.sent.push(Sent { at: self.now, by, bytes, sequence: message.sequence });
            let answered = match self.answers[rank(by)] {
                Answers::All => true,
                Answers::None => false,
                Answers::Small => bytes == SMALL,
                Answers::Loses(share) => self.dice.below(1000) >= share,
            };
            if answered {
                let reply = Message { kind: MessageKind::Reply, ..message }.encode(SMALL);
                self.replies.insert((self.now + self.rtt, message.sequence), (by, reply));
            }
        }
    }

    /// A message of the peer that nothing asked for.
    pub(crate) fn say(&mut self, by: PathKind, message: &Message, bytes: usize) -> Result<(), ProbeError> {
        self.paths.handle_probe(by, &message.encode(bytes), self.now)
    }

    /// When requests went by a path.
    pub(crate) fn times(&self, by: PathKind) -> Vec<Duration> {
        self.sent.iter().filter(|sent| sent.by == by).map(|sent| sent.at).collect()
    }
}

/// The changes of path so far: from, to and why.
pub(crate) fn switches(peer: &mut Peer) -> Vec<(PathKind, PathKind, Option<Trouble>)> {
    std::iter::from_fn(|| peer.paths.poll_switch())
        .map(|Switch { from, to, trouble, .. }| (from, to, trouble))
        .collect()
}
