//! Two ends that ping each other over a network whose delays, losses and source addresses a test chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::counterpart::Counterpart;
use super::{TAP, address, packet, private};
use crate::config::{DeviceUpdate, PeerUpdate};
use crate::engine::{Engine, EngineOptions, EngineTarget};

/// A device of ours, or one that handles keypairs as others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Other,
}

enum End {
    Ours(Box<Engine>),
    Other(Box<Counterpart>),
}

/// A datagram on its way.
pub(super) struct Passing<'a> {
    /// Since the start.
    pub(super) at: Duration,
    pub(super) from: usize,
    pub(super) to: SocketAddr,
    pub(super) bytes: &'a [u8],
    /// Whether a router may cut it: others leave that to their systems, which let it while they know of no narrow link.
    pub(super) may_fragment: bool,
    /// How many of this kind this end has sent before.
    pub(super) number: usize,
}

/// From where a datagram comes, as the receiver sees it; `None` where it is lost.
type Link<'a> = Box<dyn FnMut(&Passing<'_>) -> Option<SocketAddr> + 'a>;

pub(super) struct Network<'a> {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    one_way: Duration,
    /// Bytes of a ping.
    pub(super) len: u16,
    link: Link<'a>,
    /// When it arrives, a number that keeps the order, who gets it, from where, and what.
    under_way: BTreeSet<(Instant, usize, usize, SocketAddr, Vec<u8>)>,
    sent: usize,
    kinds: BTreeMap<(usize, u8), usize>,
    /// When each initiation was sent, by whom.
    pub(super) initiations: Vec<(Duration, usize, SocketAddr)>,
    /// Data messages that were sent, by whom and where to.
    pub(super) data: BTreeMap<(usize, SocketAddr), usize>,
    /// When each ping was sent, and how long it took to come back.
    pings: Vec<(Duration, Option<Duration>)>,
}

impl<'a> Network<'a> {
    /// The first end, at [`address`]`(0)`, and the second, which alone knows where the other is, unless both do.
    pub(super) fn new(kinds: [Kind; 2], both_know: bool, one_way: Duration, link: Link<'a>) -> Self {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let ends = [0, 1].map(|at| {
            let endpoint = (at == 1 || both_know).then(|| address(1 - at));
            let peer = private(1 - at).public_key();
            if kinds[usize::from(at)] == Kind::Other {
                return End::Other(Box::new(Counterpart::new(private(at), peer, endpoint, (start, wall))));
            }
            let mut engine = Engine::new(EngineOptions { seed: at.into(), tap: TAP, mtu: 1420 }, start, wall);
            let allowed_ips = vec![format!("10.0.1.{}/32", 2 - at).parse().unwrap()];
            let peers = vec![PeerUpdate { endpoint, allowed_ips, ..PeerUpdate::new(peer) }];
            engine.apply(DeviceUpdate { private_key: Some(private(at)), peers, ..DeviceUpdate::default() }, start);
            End::Ours(Box::new(engine))
        });
        Self {
            start,
            now: start,
            ends,
            one_way,
            len: 32,
            link,
            under_way: BTreeSet::new(),
            sent: 0,
            kinds: BTreeMap::new(),
            initiations: Vec::new(),
            data: BTreeMap::new(),
            pings: Vec::new(),
        }
    }

    /// Lets this time pass, in which that end sends a ping at each interval.
    pub(super) fn ping(&mut self, from: usize, time: Duration, interval: Duration) {
        let end = self.now + time;
        while self.now < end {
            let number = u32::try_from(self.pings.len()).unwrap();
            self.pings.push((self.now - self.start, None));
            self.packet(from, 0, number);
            self.run((self.now + interval).min(end));
        }
    }

    /// Lets time pass without new pings.
    pub(super) fn rest(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// Pings that have not come back.
    pub(super) fn lost(&self) -> usize {
        self.pings.iter().filter(|ping| ping.1.is_none()).count()
    }

    /// How many initiations that end sent.
    pub(super) fn initiations(&self, at: usize) -> usize {
        self.initiations.iter().filter(|initiation| initiation.1 == at).count()
    }

    /// The longest time that a ping took, of those since then.
    pub(super) fn slowest(&self, since: Duration) -> Duration {
        self.pings.iter().filter(|ping| ping.0 >= since).filter_map(|ping| ping.1).max().unwrap()
    }

    /// The longest time in which no ping came back, from the first to the last that did.
    pub(super) fn longest_gap(&self) -> Duration {
        let mut back: Vec<_> = self.pings.iter().filter_map(|(sent, took)| Some(*sent + (*took)?)).collect();
        back.sort_unstable();
        back.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }

    pub(super) fn endpoint(&self, at: usize) -> Option<SocketAddr> {
        match &self.ends[at] {
            End::Ours(engine) => engine.peers(self.now)[0].endpoint,
            End::Other(_) => None,
        }
    }

    fn packet(&mut self, from: usize, word: u8, number: u32) {
        let mut bytes = packet(u8::try_from(from).unwrap(), word).to_vec();
        bytes[27..31].copy_from_slice(&number.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.len.to_be_bytes());
        bytes.resize(self.len.into(), 0);
        match &mut self.ends[from] {
            End::Ours(engine) => engine.handle_packet(&bytes, self.now),
            End::Other(other) => other.handle_packet(&bytes, self.now),
        }
        self.collect(from);
    }

    fn run(&mut self, until: Instant) {
        loop {
            let due = [0, 1].map(|at| match &self.ends[at] {
                End::Ours(engine) => engine.poll_timeout(),
                End::Other(other) => other.poll_timeout(),
            });
            let arrival = self.under_way.first().map(|(at, ..)| *at);
            let next = due.into_iter().flatten().chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next)
                && let Some((_, _, to, from, bytes)) = self.under_way.pop_first()
            {
                match &mut self.ends[to] {
                    End::Ours(engine) => engine.handle_datagram(from, &bytes, self.now),
                    End::Other(other) => other.handle_datagram(from, &bytes, self.now),
                }
                self.collect(to);
                continue;
            }
            for at in [0, 1] {
                match &mut self.ends[at] {
                    End::Ours(engine) => engine.handle_timeout(self.now),
                    End::Other(other) => other.handle_timeout(self.now),
                }
                self.collect(at);
            }
        }
        self.now = until;
    }

    /// Takes what came of a call: datagrams go on their way, and pings are answered.
    fn collect(&mut self, at: usize) {
        loop {
            let (transmit, delivered) = match &mut self.ends[at] {
                End::Ours(engine) => {
                    while engine.poll_event().is_some() {}
                    let transmit = engine.poll_transmit().map(|transmit| match transmit.to {
                        EngineTarget::Udp(to) => (to, transmit.bytes, transmit.may_fragment),
                        EngineTarget::Stream(_) => panic!("there is no stream"),
                    });
                    (transmit, engine.poll_delivered())
                }
                End::Other(other) => {
                    let transmit = other.transmits.pop_front().map(|(to, bytes)| (to, bytes, true));
                    (transmit, other.delivered.pop_front())
                }
            };
            if transmit.is_none() && delivered.is_none() {
                return;
            }
            if let Some((to, bytes, may_fragment)) = transmit {
                self.pass(at, to, bytes, may_fragment);
            }
            if let Some(packet) = delivered {
                let number = u32::from_be_bytes(*packet[27..].first_chunk().unwrap());
                if packet[31] == 0 {
                    self.packet(at, 1, number);
                } else {
                    let ping = &mut self.pings[number as usize];
                    ping.1.get_or_insert(self.now - self.start - ping.0);
                }
            }
        }
    }

    fn pass(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>, may_fragment: bool) {
        let at = self.now - self.start;
        let count = self.kinds.entry((from, bytes[0])).or_default();
        let number = *count;
        *count += 1;
        match bytes[0] {
            1 => self.initiations.push((at, from, to)),
            4 => *self.data.entry((from, to)).or_default() += 1,
            _ => {}
        }
        self.sent += 1;
        if let Some(source) = (self.link)(&Passing { at, from, to, bytes: &bytes, may_fragment, number }) {
            self.under_way.insert((self.now + self.one_way, self.sent, 1 - from, source, bytes));
        }
    }
}
