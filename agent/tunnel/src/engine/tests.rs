//! Two engines on a network of the test's own, over virtual hours.

use std::collections::BTreeSet;
use std::time::Duration;

use zeroize::Zeroizing;

use super::*;
use crate::config::PeerUpdate;
use crate::key::{PresharedKey, PrivateKey};

mod counterpart;
mod losses;
mod network;
mod path_mtu;
mod renewal;
mod roaming;
mod round_trips;
mod strangers;

const S: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(20);
const TAP: u16 = 51823;

/// The streams between both, each read by the other end under the same number.
const STREAM: u64 = 7;

/// Two nodes and the network between them.
struct World {
    start: Instant,
    now: Instant,
    nodes: [Node; 2],
    /// When it arrives, a number that keeps the order, who gets it, from where, and what.
    under_way: BTreeSet<(Instant, usize, usize, From, Vec<u8>)>,
    sent: usize,
    /// Datagrams by UDP that are lost: one of so many; 0 is none, and 1 is all.
    loses: usize,
    /// The longest datagram by UDP that is not, in bytes.
    carries: usize,
    history: Vec<Line>,
}

struct Node {
    engine: Engine,
    key: PublicKey,
    /// Where its datagrams come from.
    address: SocketAddr,
    delivered: Vec<u8>,
    /// The same packets, whole.
    packets: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Udp(SocketAddr),
    Stream,
}

/// One thing that happened: when, at which node, and what.
type Line = (Duration, usize, String);

impl World {
    fn new(seed: u64) -> Self {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + 1_800_000_000 * S);
        let nodes = [0, 1].map(|at| {
            let seed = seed + u64::from(at);
            let engine = Engine::new(EngineOptions { seed, tap: TAP, mtu: 1420 }, start, wall);
            let (delivered, packets) = (Vec::new(), Vec::new());
            Node { engine, key: private(at).public_key(), address: address(at), delivered, packets }
        });
        let (under_way, history) = (BTreeSet::new(), Vec::new());
        Self { start, now: start, nodes, under_way, sent: 0, loses: 0, carries: usize::MAX, history }
    }

    /// Both know each other, and only the first where the other is.
    fn introduced(seed: u64) -> Self {
        let mut world = Self::new(seed);
        for at in [0, 1] {
            let update = PeerUpdate {
                endpoint: (at == 0).then(|| address(1)),
                preshared_key: Some(PresharedKey::from_bytes(Zeroizing::new([9; 32]))),
                persistent_keepalive: Some(25),
                allowed_ips: vec![format!("10.0.1.{}/32", 2 - at).parse().unwrap()],
                ..PeerUpdate::new(private(1 - at).public_key())
            };
            let update =
                DeviceUpdate { private_key: Some(private(at)), peers: vec![update], ..DeviceUpdate::default() };
            world.nodes[usize::from(at)].engine.apply(update, world.start);
            world.collect(at.into());
        }
        world
    }

    /// Takes what came of a call.
    fn collect(&mut self, at: usize) {
        let Self { start, now, nodes, under_way, sent, loses, carries, history } = self;
        let since = *now - *start;
        while let Some(EngineTransmit { to, bytes, ecn, .. }) = nodes[at].engine.poll_transmit() {
            *sent += 1;
            let (from, is_lost, arrives) = match to {
                EngineTarget::Udp(target) => {
                    let is_lost = *loses > 0 && *sent % *loses == 0 || bytes.len() > *carries;
                    (From::Udp(nodes[at].address), is_lost || target != nodes[1 - at].address, *now + LATENCY)
                }
                EngineTarget::Stream(_) => (From::Stream, false, *now + 4 * LATENCY),
            };
            history.push((since, at, format!("kind {}, {} bytes, ecn {ecn}, to {to:?}", bytes[0], bytes.len())));
            if !is_lost {
                under_way.insert((arrives, *sent, 1 - at, from, bytes));
            }
        }
        while let Some(packet) = nodes[at].engine.poll_delivered() {
            history.push((since, at, format!("delivered {packet:?}")));
            nodes[at].delivered.extend(packet.last());
            nodes[at].packets.push(packet);
        }
        while let Some(event) = nodes[at].engine.poll_event() {
            history.push((since, at, format!("{event:?}")));
        }
    }

    /// Lets this time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = [0, 1].map(|at| self.nodes[at].engine.poll_timeout());
            let arrival = self.under_way.first().map(|(at, ..)| *at);
            let Some(next) = due.into_iter().flatten().chain(arrival).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next)
                && let Some((_, _, to, from, bytes)) = self.under_way.pop_first()
            {
                let engine = &mut self.nodes[to].engine;
                match from {
                    From::Udp(address) => engine.handle_datagram(address, &bytes, self.now),
                    From::Stream => engine.handle_stream(STREAM, &bytes, self.now),
                }
                self.collect(to);
                continue;
            }
            for at in [0, 1] {
                self.nodes[at].engine.handle_timeout(self.now);
                self.collect(at);
            }
        }
        self.now = end;
    }

    /// A packet that ends in a word, from the interface of a node.
    fn send(&mut self, at: usize, word: u8) {
        let packet = packet(at as u8, word);
        self.nodes[at].engine.handle_packet(&packet, self.now);
        self.collect(at);
    }

    fn with<R>(&mut self, at: usize, work: impl FnOnce(&mut Engine, &PublicKey, Instant) -> R) -> R {
        let peer = self.nodes[1 - at].key;
        let done = work(&mut self.nodes[at].engine, &peer, self.now);
        self.collect(at);
        done
    }

    /// How many lines since that one hold this.
    fn count(&self, since: usize, at: usize, what: &str) -> usize {
        self.history[since..].iter().filter(|line| line.1 == at && line.2.contains(what)).count()
    }

    fn delivered(&mut self, at: usize) -> Vec<u8> {
        std::mem::take(&mut self.nodes[at].delivered)
    }

    fn endpoint(&self, at: usize) -> Option<SocketAddr> {
        self.nodes[at].engine.peers(self.now)[0].endpoint
    }
}

fn private(at: u8) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new([at + 1; 32]))
}

fn address(at: u8) -> SocketAddr {
    ([192, 0, 2, at + 1], 51820).into()
}

/// UDP over IPv4 between ports that nothing else has, 32 bytes long.
fn packet(at: u8, word: u8) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 32]);
    (packet[8], packet[9], packet[31]) = (64, 17, word);
    packet[12..20].copy_from_slice(&[10, 0, 1, at + 1, 10, 0, 1, 2 - at]);
    packet[20..26].copy_from_slice(&[0, 9, 0, 9, 0, 12]);
    packet
}

/// Everything that happens in some virtual hours.
fn script(seed: u64) -> Vec<Line> {
    let mut world = World::introduced(seed);
    world.run(S);
    for word in 1..=3 {
        world.send(0, word);
        world.send(1, word + 10);
    }
    world.run(S);
    assert_eq!((world.delivered(0), world.delivered(1)), (vec![11, 12, 13], vec![1, 2, 3]));
    assert_eq!(world.endpoint(1), Some(world.nodes[0].address), "found by the handshake");

    // An hour of traffic, in which each session is renewed in its time.
    let before = world.history.len();
    for _ in 0..360 {
        world.send(0, 4);
        world.run(10 * S);
    }
    assert_eq!(world.delivered(1), [4; 360]);
    let renewals = world.count(before, 0, "kind 1,");
    assert!((27..=30).contains(&renewals), "{renewals} in an hour");

    // The first moves, as a NAT that forgets does.
    world.nodes[0].address = ([198, 51, 100, 1], 4000).into();
    world.send(0, 5);
    world.run(S);
    assert_eq!((world.delivered(1), world.endpoint(1)), (vec![5], Some(world.nodes[0].address)));

    // UDP is gone, and a stream takes its place; it proves itself, and is lost in turn.
    world.loses = 1;
    for at in [0, 1] {
        world.with(at, |engine, peer, now| engine.set_stream(peer, Some(STREAM), now));
    }
    let before = world.history.len();
    world.with(0, |engine, peer, now| engine.initiate(peer, STREAM, now));
    world.run(S);
    let proofs = [0, 1].map(|at| world.count(before, at, "Proved { stream: 7"));
    assert_eq!(
        (proofs, world.count(before, 0, "RoundTrip")),
        ([1, 2], 1),
        "the answer, and what showed that there was a session"
    );
    world.send(0, 6);
    assert!(world.with(0, |engine, peer, now| engine.send_inner(peer, Path::Stream, &probe(), now)));
    world.run(S);
    assert_eq!(
        (world.delivered(1), world.count(before, 1, "Probe {")),
        (vec![6], 1),
        "the probe is not for the interface"
    );
    for at in [0, 1] {
        world.with(at, |engine, peer, now| {
            engine.set_stream(peer, None, now);
            engine.close_stream(STREAM);
        });
    }

    // One of five is lost for half an hour in which there is not much to say.
    world.loses = 5;
    let before = world.history.len();
    world.run(1800 * S);
    let keepalives = world.count(before, 0, "kind 4, 32 bytes");
    assert!((40..=72).contains(&keepalives), "{keepalives} in half an hour, where nothing else was sent for 25 s");
    for word in 0..50 {
        world.send(1, word);
        world.run(S);
    }
    let arrived = world.delivered(0).len();
    assert!((35..=45).contains(&arrived), "{arrived} of 50");

    // Nothing at all gets through, until it does again.
    world.loses = 1;
    world.send(0, 1);
    world.run(600 * S);
    world.loses = 0;
    world.delivered(1);
    world.send(0, 7);
    world.run(10 * S);
    assert_eq!(world.delivered(1), [7]);
    world.history
}

/// UDP over IPv4 to the port that is not for programs.
fn probe() -> [u8; 32] {
    let mut packet = packet(0, 1);
    packet[20..22].copy_from_slice(&TAP.to_be_bytes());
    packet[22..24].copy_from_slice(&TAP.to_be_bytes());
    packet
}

#[test]
fn one_seed_has_one_history() {
    let (first, again) = (script(1), script(1));
    let differ = first.iter().zip(&again).find(|(one, other)| one != other);
    assert!(differ.is_none() && first.len() == again.len(), "{differ:?}");
    let unanswered = |seed| {
        let mut world = World::introduced(seed);
        world.loses = 1;
        world.run(30 * S);
        world.history
    };
    assert_eq!(unanswered(1), unanswered(1));
    assert_ne!(unanswered(1), unanswered(2), "the jitter of another seed is another");
}

#[test]
fn a_peer_that_is_only_configured_hears_nothing() {
    let mut world = World::new(1);
    let peer = |at: u8| PeerUpdate::new(private(1 - at).public_key());
    let update = |peer| DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
    let sent = |world: &World, at| world.count(0, at, "kind ");
    for at in [0, 1] {
        let allowed_ips = vec![format!("10.0.1.{}/32", 2 - at).parse().unwrap()];
        let peer = PeerUpdate { endpoint: Some(address(1 - at)), allowed_ips, ..peer(at) };
        let update = DeviceUpdate { private_key: Some(private(at)), ..update(peer) };
        world.with(at.into(), |engine, _, now| engine.apply(update, now));
    }
    world.run(3600 * S);
    // Another endpoint and back, and another preshared key.
    for port in [1, 51820] {
        let endpoint = Some((address(1).ip(), port).into());
        let preshared_key = Some(PresharedKey::from_bytes(Zeroizing::new([0; 32])));
        let moved = update(PeerUpdate { endpoint, preshared_key, ..peer(0) });
        world.with(0, |engine, _, now| engine.apply(moved, now));
        world.run(600 * S);
    }
    assert_eq!([sent(&world, 0), sent(&world, 1)], [0, 0]);

    // One packet: a handshake, the first message of the session, that packet, and what says that it came. Then silence again.
    world.send(0, 1);
    world.run(3600 * S);
    assert_eq!((world.delivered(1), sent(&world, 0), sent(&world, 1)), (vec![1], 3, 2));
    let rekeyed = DeviceUpdate { private_key: Some(private(5)), ..DeviceUpdate::default() };
    world.with(0, |engine, _, now| engine.apply(rekeyed, now));
    world.run(600 * S);
    assert_eq!([sent(&world, 0), sent(&world, 1)], [3, 2]);

    // What is to be kept alive is asked at once; so is a peer whose session ended with our key.
    let back = DeviceUpdate { private_key: Some(private(0)), ..DeviceUpdate::default() };
    world.with(0, |engine, _, now| engine.apply(back, now));
    world.with(0, |engine, _, now| {
        engine.apply(update(PeerUpdate { persistent_keepalive: Some(25), ..peer(0) }), now);
    });
    assert_eq!(sent(&world, 0), 4);
    world.run(S);
    world.with(1, |engine, _, now| engine.apply(update(PeerUpdate { endpoint: Some(address(7)), ..peer(1) }), now));
    let before = sent(&world, 1);
    world.with(1, |engine, _, now| {
        engine.apply(DeviceUpdate { private_key: Some(private(1)), ..DeviceUpdate::default() }, now);
    });
    assert_eq!(sent(&world, 1), before, "the same key is no news");
    world.with(1, |engine, _, now| {
        engine.apply(DeviceUpdate { private_key: Some(private(6)), ..DeviceUpdate::default() }, now);
    });
    assert_eq!(sent(&world, 1), before + 1, "its session ended with the key");

    // A peer for which a packet waits is asked at its new endpoint at once.
    let mut world = World::introduced(1);
    let at = |port, keepalive| PeerUpdate {
        endpoint: Some((address(1).ip(), port).into()),
        persistent_keepalive: Some(keepalive),
        ..peer(0)
    };
    world.with(0, |engine, _, now| engine.apply(update(at(1, 0)), now));
    world.loses = 1;
    world.run(3600 * S);
    world.loses = 0;
    world.send(0, 2);
    world.run(60 * S);
    assert_eq!(world.delivered(1), []);
    world.with(0, |engine, _, now| engine.apply(update(at(51820, 0)), now));
    world.run(3 * LATENCY);
    assert_eq!(world.delivered(1), [2]);
}

/// Indices that no message of the device ever carried, and those next to one that is in use.
#[test]
fn messages_for_unknown_indices_go_nowhere() {
    let mut world = World::introduced(1);
    world.run(S);
    world.send(1, 1);
    let (.., message) = world.under_way.last().expect("the packet").clone();
    world.run(S);
    assert_eq!(world.delivered(0), [1]);
    let used = u32::from_le_bytes(*message[4..].first_chunk().unwrap());
    let (before, now) = (world.history.len(), world.now);
    let near = (0..32).map(|bit| used ^ 1 << bit).chain([used.wrapping_add(1), used.wrapping_sub(1)]);
    let far = (0..1000_u32).map(|number| number.wrapping_mul(0x9e37_79b9)).filter(|index| *index != used);
    let mut forged = message;
    for index in near.chain(far) {
        forged[4..8].copy_from_slice(&index.to_le_bytes());
        world.nodes[0].engine.handle_datagram(address(1), &forged, now);
        world.collect(0);
    }
    assert_eq!((world.history.len(), world.nodes[0].engine.drops().unauthenticated), (before, 34 + 1000));
    // The second index is where a response names its receiver.
    let mut response = [0; 92];
    response[0] = 2;
    for index in 0..1000_u32 {
        response[8..12].copy_from_slice(&index.to_le_bytes());
        world.nodes[0].engine.handle_datagram(address(1), &response, now);
    }
    assert_eq!(world.nodes[0].engine.drops().unauthenticated, 34 + 2000);
}

/// Two hundred seconds in which one of the machines was suspended and the other had nothing to say.
#[test]
fn a_session_that_grew_too_old_unseen_is_left_at_once() {
    const SUSPENDED: Duration = Duration::from_secs(200);
    for packet_first in [true, false] {
        let mut world = World::introduced(1);
        world.run(S);
        world.send(0, 1);
        world.run(S);
        assert_eq!(world.delivered(1), [1]);
        let before = world.history.len();
        world.now += SUSPENDED;
        if packet_first {
            world.send(0, 2);
        } else {
            // The alarm that was set for the keepalive is late.
            world.nodes[0].engine.handle_timeout(world.now);
            world.collect(0);
        }
        let sent: Vec<_> = world.history[before..].iter().filter(|line| line.1 == 0).map(|line| &line.2).collect();
        assert!(sent.len() == 1 && sent[0].starts_with("kind 1,"), "{sent:?}");
        world.run(3 * LATENCY);
        assert_eq!(world.delivered(1), if packet_first { vec![2] } else { vec![] });
        assert_eq!(world.count(before, 1, "kind 2,"), 1, "the first initiation was answered");
    }
}

#[test]
fn a_device_without_a_key_does_nothing() {
    let mut world = World::new(1);
    let update = PeerUpdate { endpoint: Some(address(1)), ..PeerUpdate::new(private(1).public_key()) };
    world.nodes[0].engine.apply(DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() }, world.start);
    world.nodes[0].engine.handle_datagram(address(1), &[1; 148], world.start);
    world.send(0, 1);
    world.run(3600 * S);
    assert_eq!(world.history, [(Duration::ZERO, 0, format!("{:?}", endpoint_of(1)))]);
    assert_eq!((world.nodes[0].engine.public_key(), world.nodes[0].engine.drops().no_peer), (None, 1));
}

fn endpoint_of(at: u8) -> EngineEvent {
    EngineEvent::Endpoint { peer: private(at).public_key(), endpoint: address(at) }
}

/// 56,000 initiations a second from as many addresses, garbled behind their first MAC; a new client gets in within half a second, and
/// its session goes on.
#[test]
fn a_newcomer_gets_in_beside_a_flood() {
    let mut world = World::introduced(1);
    let second = PrivateKey::from_bytes(Zeroizing::new([9; 32]));
    let mut session = Engine::new(EngineOptions { seed: 9, tap: TAP, mtu: 1420 }, world.start, SystemTime::UNIX_EPOCH);
    let victim = PeerUpdate {
        endpoint: Some(address(1)),
        persistent_keepalive: Some(25),
        ..PeerUpdate::new(private(1).public_key())
    };
    let update = DeviceUpdate { private_key: Some(second), peers: vec![victim], ..DeviceUpdate::default() };
    // It only serves to make a message with a first MAC for the victim.
    session.apply(update, world.start);
    let mut garbled = session.poll_transmit().unwrap().bytes;
    garbled[40] ^= 1;
    crate::noise::sign(&mut garbled, &private(1).public_key(), None);

    // The client is another device, which the victim knows.
    world.nodes[0].engine.apply(DeviceUpdate { replace_peers: true, ..DeviceUpdate::default() }, world.now);
    let mut number = 0_u32;
    let mut flood = |world: &mut World, time: Duration| {
        // A millisecond's worth at a time.
        for _ in 0..time.as_millis() {
            for _ in 0..56 {
                number += 1;
                let from = SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 9));
                world.nodes[1].engine.handle_datagram(from, &garbled, world.now);
                while let Some(sent) = world.nodes[1].engine.poll_transmit() {
                    assert_eq!(sent.bytes[0], 3, "a cookie, and to each who asked");
                    assert_eq!(sent.to, EngineTarget::Udp(from));
                }
            }
            world.run(Duration::from_millis(1));
        }
    };
    flood(&mut world, S / 5);
    let under_load = world.nodes[1].engine.drops().under_load;
    assert!(under_load > 5_000, "{under_load} of 11,200");
    let peer = PeerUpdate {
        endpoint: Some(address(1)),
        preshared_key: Some(PresharedKey::from_bytes(Zeroizing::new([9; 32]))),
        allowed_ips: vec!["10.0.1.2/32".parse().unwrap()],
        ..PeerUpdate::new(private(1).public_key())
    };
    let since = world.history.len();
    world.nodes[0].engine.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }, world.now);
    world.send(0, 1);
    flood(&mut world, S / 2);
    assert_eq!(world.delivered(1), [1]);
    assert_eq!(world.count(since, 1, "kind 3,"), 1, "it was asked for a cookie, once");
    for word in 2..5 {
        world.send(0, word);
        flood(&mut world, 2 * LATENCY);
    }
    assert_eq!(world.delivered(1), [2, 3, 4], "its session goes on");
}
