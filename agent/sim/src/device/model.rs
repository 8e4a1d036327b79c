//! A model of the WireGuard device, without its cryptography: the messages, sessions, timers and routes that paths and agents see.
//!
//! It stands where the device's own machine belongs, behind the calls that [`super::Device`] makes. Messages have the form and the
//! length of WireGuard's, and their content is only hidden, not sealed: what a run proves is proved of agents and paths, and of
//! the device only that one which follows its rules serves them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh_core::id::WireguardKey;
use mesh_tunnel::{Path, Proof, Route};

/// As the device has them.
const RETRIES: [u64; 4] = [250, 500, 1000, 2000];
const RETRY: Duration = Duration::from_secs(5);
const RENEW_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// A peer that says nothing for so long while it is sent to is asked for a new session.
const UNHEARD: Duration = Duration::from_secs(15);
const REPORT_AFTER: Duration = Duration::from_millis(50);
/// Packets that wait for a session.
const STAGED: usize = 100;
/// Initiations by streams, and counters, that are remembered.
const REMEMBERED: usize = 512;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;
const HEADER: usize = 48;

/// Where a datagram goes, or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Udp(SocketAddr),
    Stream(u64),
}

/// What the device reports.
#[derive(Debug)]
pub(crate) enum Event {
    Probe { peer: WireguardKey, path: Path, packet: Vec<u8> },
    Sent { peer: WireguardKey },
    Received { peer: WireguardKey, path: Path },
    Endpoint { peer: WireguardKey, endpoint: SocketAddr },
    Stun { from: SocketAddr, datagram: Vec<u8> },
    Proved { stream: u64, peer: WireguardKey, proof: Proof },
}

#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: u16,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) has_preshared_key: bool,
    pub(crate) handshake: Option<Duration>,
    pub(crate) received: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    route: Route,
    stream: Option<u64>,
    session: Option<Session>,
    /// Counts messages, whatever the session.
    counter: u64,
    /// When a handshake is tried next, and how often it was.
    retry: Option<(Duration, usize)>,
    staged: VecDeque<Vec<u8>>,
    sent: Duration,
    /// Since when messages went and nothing came back.
    unanswered: Option<Duration>,
    /// Session and counter of messages that came, and the order in which they did.
    seen: BTreeSet<(u32, u64)>,
    order: VecDeque<(u32, u64)>,
    /// Initiations that went by a stream alone.
    by_stream: VecDeque<(u64, u64)>,
    reported: [Option<Duration>; 3],
}

#[derive(Debug, Clone, Copy)]
struct Session {
    index: u32,
    since: Duration,
}

/// The device.
#[derive(Debug)]
pub(crate) struct Model {
    own: WireguardKey,
    tap: u16,
    pub(crate) peers: BTreeMap<WireguardKey, Peer>,
    out: VecDeque<(Via, Vec<u8>)>,
    delivered: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    handshakes: u64,
    salt: u64,
}

impl Peer {
    /// The session that may be used now; one that is old asks for another.
    fn session(&mut self, now: Duration) -> Option<Session> {
        self.session = self.session.filter(|session| now < session.since + REJECT_AFTER);
        let is_old = self.session.is_none_or(|session| now >= session.since + RENEW_AFTER);
        let is_unheard = self.unanswered.is_some_and(|since| now >= since + UNHEARD);
        if (is_old || is_unheard) && self.retry.is_none() {
            self.retry = Some((now, 0));
        }
        self.session
    }

    fn message(&mut self, own: WireguardKey, packet: &[u8], now: Duration) -> Option<Vec<u8>> {
        let Session { index, .. } = self.session(now)?;
        self.counter += 1;
        self.sent = now;
        self.unanswered.get_or_insert(now);
        let mut bytes = vec![DATA, 0, 0, 0];
        bytes.extend(index.to_le_bytes());
        bytes.extend(self.counter.to_le_bytes());
        bytes.extend(own.0);
        bytes.extend(packet.iter().map(|byte| !byte));
        Some(bytes)
    }

    /// Sends by every path of the route.
    fn send(&mut self, bytes: Vec<u8>, out: &mut VecDeque<(Via, Vec<u8>)>) {
        let udp = self.endpoint.filter(|_| self.route.udp).map(Via::Udp);
        let stream = self.stream.filter(|_| self.route.stream).map(Via::Stream);
        for via in udp.into_iter().chain(stream) {
            self.tx_bytes += bytes.len() as u64;
            out.push_back((via, bytes.clone()));
        }
    }

    fn may_report(&mut self, what: usize, now: Duration) -> bool {
        let may = self.reported[what].is_none_or(|at| now >= at + REPORT_AFTER);
        if may {
            self.reported[what] = Some(now);
        }
        may
    }
}

impl Model {
    pub(crate) fn new(own: WireguardKey, tap: u16, salt: u64) -> Self {
        let (out, delivered, events) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { own, tap, peers: BTreeMap::new(), out, delivered, events, handshakes: 0, salt }
    }

    /// The peer, made if it is not there, whose endpoint is this from now on, where one is given.
    pub(crate) fn set_peer(&mut self, key: WireguardKey, endpoint: Option<SocketAddr>, now: Duration) -> &mut Peer {
        let peer = self.peers.entry(key).or_insert_with(|| Peer { sent: now, ..Peer::default() });
        if let Some(endpoint) = endpoint {
            if peer.endpoint.replace(endpoint) != Some(endpoint) {
                self.events.push_back(Event::Endpoint { peer: key, endpoint });
            }
            if peer.session.is_none() {
                peer.retry = Some((now, 0));
            }
        }
        peer
    }

    pub(crate) fn set_route(&mut self, key: WireguardKey, route: Route) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.route = route;
        }
    }

    pub(crate) fn set_stream(&mut self, key: WireguardKey, stream: Option<u64>, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.stream = stream;
            if peer.session.is_none() {
                peer.retry = Some((now, 0));
            }
        }
    }

    pub(crate) fn send_inner(&mut self, key: WireguardKey, path: Path, packet: &[u8], now: Duration) {
        let own = self.own;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(bytes) = peer.message(own, packet, now) else { return };
        let via = match path {
            Path::Udp => peer.endpoint.map(Via::Udp),
            Path::Stream => peer.stream.map(Via::Stream),
        };
        self.out.extend(via.map(|via| (via, bytes)));
    }

    pub(crate) fn initiate(&mut self, key: WireguardKey, stream: u64) {
        let (bytes, number) = self.initiation();
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.by_stream.push_back((stream, number));
            if peer.by_stream.len() > REMEMBERED {
                peer.by_stream.pop_front();
            }
            self.out.push_back((Via::Stream(stream), bytes));
        }
    }

    pub(crate) fn try_endpoint(&mut self, key: WireguardKey, endpoint: SocketAddr) {
        if self.peers.contains_key(&key) {
            let (bytes, _) = self.initiation();
            self.out.push_back((Via::Udp(endpoint), bytes));
        }
    }

    /// A packet from the interface.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Duration) {
        let Some(to) = packet.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from) else {
            return;
        };
        let own = self.own;
        let Some((key, peer)) = self.peers.iter_mut().find(|(_, peer)| peer.address == Some(to)) else { return };
        match peer.message(own, packet, now) {
            Some(bytes) => peer.send(bytes, &mut self.out),
            None => {
                peer.staged.push_back(packet.to_vec());
                if peer.staged.len() > STAGED {
                    peer.staged.pop_front();
                }
            }
        }
        if peer.may_report(0, now) {
            self.events.push_back(Event::Sent { peer: *key });
        }
        self.handle_timeout(now);
    }

    /// A datagram from the network, or from a stream.
    pub(crate) fn handle(&mut self, via: Via, bytes: &[u8], now: Duration) {
        let at = match bytes {
            [INITIATION | RESPONSE, 0, ..] => 4,
            [DATA, 0, ..] => 16,
            _ => {
                if let Via::Udp(from) = via {
                    self.events.push_back(Event::Stun { from, datagram: bytes.to_vec() });
                }
                return;
            }
        };
        let Some(key) = bytes.get(at..at + 32).and_then(|key| key.try_into().ok()).map(WireguardKey) else { return };
        let own = self.own;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut proof = Proof::Data;
        // An initiation alone may be a recording.
        let mut moves = true;
        if bytes[0] == DATA {
            let (index, counter) = (number32(&bytes[4..8]), u64::from_le_bytes(bytes[8..16].try_into().unwrap()));
            if peer.session(now).is_none() || !peer.seen.insert((index, counter)) {
                return;
            }
            peer.order.push_back((index, counter));
            if peer.order.len() > REMEMBERED
                && let Some(oldest) = peer.order.pop_front()
            {
                peer.seen.remove(&oldest);
            }
            (peer.received, peer.retry) = (Some(now), peer.retry.filter(|(_, tries)| *tries == 0));
            let packet: Vec<u8> = bytes[HEADER..].iter().map(|byte| !byte).collect();
            self.take(key, via, packet, now);
        } else {
            let number = u64::from_be_bytes(bytes[36..44].try_into().unwrap());
            let index = number32(&number.to_le_bytes()[..4]);
            if bytes[0] == INITIATION {
                moves = peer.endpoint.is_none();
                peer.session = Some(Session { index, since: now });
                let mut response = vec![RESPONSE, 0, 0, 0];
                response.extend(own.0);
                response.extend(number.to_be_bytes());
                response.resize(92, 0);
                self.out.push_back((via, response));
            } else {
                peer.session = Some(Session { index, since: now });
                (peer.received, peer.retry) = (Some(now), None);
                if matches!(via, Via::Stream(stream) if peer.by_stream.contains(&(stream, number))) {
                    proof = Proof::RoundTrip;
                }
                if let Some(confirmation) = peer.message(own, &[], now) {
                    peer.send(confirmation, &mut self.out);
                }
            }
            peer.handshake = Some(now);
        }
        self.came_by(key, via, bytes.len(), moves, proof, now);
    }

    /// What is inside of a message.
    fn take(&mut self, key: WireguardKey, via: Via, packet: Vec<u8>, now: Duration) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let source = packet.get(12..16).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from);
        if source.is_none() || source != peer.address {
            return;
        }
        let path = if matches!(via, Via::Udp(_)) { Path::Udp } else { Path::Stream };
        let tap = self.tap.to_be_bytes();
        if packet.get(20..22) == Some(&tap[..]) {
            self.events.push_back(Event::Probe { peer: key, path, packet });
        } else {
            if peer.may_report(if path == Path::Udp { 1 } else { 2 }, now) {
                self.events.push_back(Event::Received { peer: key, path });
            }
            self.delivered.push_back(packet);
        }
    }

    /// Where the peer is, and what waited for its session.
    fn came_by(&mut self, key: WireguardKey, via: Via, len: usize, moves: bool, proof: Proof, now: Duration) {
        let own = self.own;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.rx_bytes += len as u64;
        peer.unanswered = None;
        match via {
            Via::Udp(from) if moves && peer.endpoint != Some(from) => {
                peer.endpoint = Some(from);
                self.events.push_back(Event::Endpoint { peer: key, endpoint: from });
            }
            Via::Udp(_) => {}
            Via::Stream(stream) => self.events.push_back(Event::Proved { stream, peer: key, proof }),
        }
        for packet in std::mem::take(&mut peer.staged) {
            if let Some(bytes) = peer.message(own, &packet, now) {
                peer.send(bytes, &mut self.out);
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        let own = self.own;
        let keys: Vec<WireguardKey> = self.peers.keys().copied().collect();
        for key in keys {
            let (bytes, _) = self.initiation();
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            if peer.keepalive_at().is_some_and(|at| at <= now) {
                peer.sent = now;
                if let Some(keepalive) = peer.message(own, &[], now) {
                    peer.send(keepalive, &mut self.out);
                }
            }
            if let Some((_, tries)) = peer.retry.filter(|(at, _)| *at <= now) {
                peer.send(bytes, &mut self.out);
                let wait = RETRIES.get(tries).map_or(RETRY, |millis| Duration::from_millis(*millis));
                peer.retry = Some((now + wait, tries + 1));
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let due = |peer: &Peer| peer.retry.map(|(at, _)| at).into_iter().chain(peer.keepalive_at()).min();
        self.peers.values().filter_map(due).min()
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(Via, Vec<u8>)> {
        self.out.pop_front()
    }

    pub(crate) fn poll_delivered(&mut self) -> Option<Vec<u8>> {
        self.delivered.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// An initiation, and its number.
    fn initiation(&mut self) -> (Vec<u8>, u64) {
        self.handshakes += 1;
        let salt = self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let number = (salt & 0xffff_0000) | (self.handshakes & 0xffff) | self.handshakes << 32;
        let mut bytes = vec![INITIATION, 0, 0, 0];
        bytes.extend(self.own.0);
        bytes.extend(number.to_be_bytes());
        bytes.resize(148, 0);
        (bytes, number)
    }
}

impl Peer {
    fn keepalive_at(&self) -> Option<Duration> {
        (self.keepalive > 0).then(|| self.sent + Duration::from_secs(self.keepalive.into()))
    }

    /// Its address as the device shows it.
    pub(crate) fn allowed_ips(&self) -> Vec<ipnetwork::IpNetwork> {
        self.address.into_iter().map(|address| IpAddr::V4(address).into()).collect()
    }
}

fn number32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}
