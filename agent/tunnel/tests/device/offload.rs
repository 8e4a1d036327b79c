//! Every packet that goes into one end leaves the other byte for byte and in the order of its flow, on every path through the
//! device's code: as superpackets, one by one, and without each of the kernel's offloads.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Instant;

use mesh_tunnel::Offloads;

use testkit::Rng;

use crate::direction::{Direction, let_through};
use crate::lab::{Kind, Node, Switch, join};
use crate::tap::{Frame, GSO_TCP4, GSO_TCP6, GSO_UDP, Tap};
use crate::traffic::Traffic;

/// Seeds that are always run. `OFFLOAD_SEEDS=N` runs N more, each with a random seed that a failure names.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Bursts of each seed, in each direction.
const BURSTS: usize = 8;

fn seeds() -> impl Iterator<Item = u64> {
    let more: u64 =
        std::env::var("OFFLOAD_SEEDS").map_or(0, |number| number.parse().expect("OFFLOAD_SEEDS is a number"));
    let begin = u64::from(std::process::id()) << 20;
    SEEDS.into_iter().chain((0..more).map(move |number| begin + number))
}

/// Packets and bytes of a burst, and the number of its streams as a multiple of the usual one.
type Size = (usize, usize, usize);

/// A burst that fits into the queues where both devices are ours.
const LARGE: Size = (400, 500_000, 1);

/// Sends bursts in both directions at once.
#[track_caller]
fn carries_exactly(a: &Node, b: &Node, (packets, bytes, times): Size) {
    join(a, b);
    let_through(a, b);
    let directions = [(a, b), (b, a)];
    let mut paths = directions.map(|(from, to)| Direction::new(from, to));
    let mut links = directions.map(|(from, to)| (Tap::listener(&to.host, "eth0"), from, 0));
    for seed in seeds() {
        let mut traffic = directions.map(|(from, to)| Traffic::wide(seed, from.number, to.number, times));
        for burst in 0..BURSTS {
            for (path, traffic) in paths.iter_mut().zip(&mut traffic) {
                path.label = format!("seed {seed}, burst {burst}");
                path.send(&traffic.burst(packets, bytes));
            }
            paths.iter_mut().for_each(Direction::settle);
            for (link, from, trains) in &mut links {
                *trains +=
                    std::iter::from_fn(|| link.next(Instant::now())).filter(|frame| is_train(frame, from)).count();
            }
        }
    }
    // All packets on their way have arrived when this answer has.
    a.reaches(b.inner4());
    for ((from, to), (path, (_, _, trains))) in directions.into_iter().zip(paths.iter_mut().zip(links)) {
        path.drain();
        assert_eq!(path.lost(), 0, "the test's own sockets were full");
        offloads_were_used(from, to, &path.merged, trains);
    }
}

/// Whether datagrams of the node were sent many at a time, in a frame of the link between them.
fn is_train(frame: &Frame, from: &Node) -> bool {
    frame.vnet.gso == GSO_UDP && frame.bytes[26..30] == [192, 0, 2, from.number]
}

/// An offload that is allowed was used, and one that is not was not: each path was tested that was meant to be.
#[track_caller]
fn offloads_were_used(from: &Node, to: &Node, merged: &BTreeMap<u8, usize>, trains: usize) {
    let used = |node: &Node| node.is_ours().then(|| node.device().snapshot().offloads);
    assert_eq!(trains > 0, used(from).is_some_and(|used| used.udp_gso), "{trains} trains from node {}", from.number);
    let Some(used) = used(to) else { return assert!(merged.is_empty()) };
    for (kind, used) in [(GSO_TCP4, used.tun_tso), (GSO_TCP6, used.tun_tso), (GSO_UDP, used.tun_uso)] {
        // Packets that arrived one by one may also be delivered one by one.
        if from.is_ours() || !used {
            assert_eq!(merged.contains_key(&kind), used, "{merged:?} at node {}", to.number);
        }
    }
}

/// A node with our device, with these offloads and so many threads.
#[track_caller]
fn made_with(switch: &Switch, number: u8, offloads: Offloads, threads: u8) -> Node {
    let threads = NonZeroU8::new(threads).unwrap();
    let node = switch.node_with(number, |options| (options.offloads, options.threads) = (offloads, threads));
    let state = node.device().snapshot();
    // Every supported kernel has the others, and the cipher depends on the processor.
    let Offloads { tun_uso, batch_aead, .. } = state.offloads;
    let expected =
        Offloads { tun_uso: offloads.tun_uso && tun_uso, batch_aead: offloads.batch_aead && batch_aead, ..offloads };
    assert_eq!((state.offloads, state.threads), (expected, threads));
    node
}

#[test]
fn everything_arrives_as_it_was_sent() {
    let switch = Switch::new();
    carries_exactly(&switch.node(1, Kind::Ours), &switch.node(2, Kind::Ours), LARGE);
}

#[test]
fn everything_arrives_without_one_of_the_offloads() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    for (number, (name, _)) in (2..).zip(Offloads::ALL.each()) {
        let offloads = Offloads::ALL.without(name).unwrap();
        carries_exactly(&whole, &made_with(&switch, number, offloads, 1), LARGE);
    }
}

#[test]
fn everything_arrives_without_any_offload() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    let bare = made_with(&switch, 2, Offloads::NONE, 1);
    carries_exactly(&whole, &bare, LARGE);
    carries_exactly(&bare, &made_with(&switch, 3, Offloads::NONE, 1), LARGE);
}

/// More streams than threads, so that each thread has several at once.
#[test]
fn everything_arrives_over_two_threads() {
    let switch = Switch::new();
    let two = made_with(&switch, 1, Offloads::ALL, 2);
    for (number, (offloads, threads)) in (2..).zip([(Offloads::ALL, 2), (Offloads::ALL, 1), (Offloads::NONE, 2)]) {
        carries_exactly(&two, &made_with(&switch, number, offloads, threads), (400, 500_000, 10));
    }
}

/// Debian's wireguard-go takes one packet at a time and has small buffers.
#[test]
fn everything_arrives_to_and_from_wireguard_go() {
    let switch = Switch::new();
    let them = switch.node(1, Kind::WireguardGo);
    for (number, offloads) in (2..).zip([Offloads::ALL, Offloads::NONE]) {
        carries_exactly(&made_with(&switch, number, offloads, 1), &them, (60, 60_000, 1));
    }
}

/// Packets for several peers are interleaved when they are sent, and so are packets of several peers when they are received.
#[test]
fn everything_arrives_at_and_from_many_peers() {
    let switch = Switch::new();
    let hub = made_with(&switch, 1, Offloads::ALL, 2);
    let peers: Vec<_> = (2..6).map(|number| switch.node(number, Kind::Ours)).collect();
    for peer in &peers {
        join(&hub, peer);
        let_through(&hub, peer);
    }
    let mut out: Vec<_> = peers.iter().map(|peer| Direction::new(&hub, peer)).collect();
    let mut back: Vec<_> = peers.iter().map(|peer| Direction::new(peer, &hub)).collect();
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut traffic: Vec<_> = peers.iter().map(|peer| Traffic::new(seed, hub.number, peer.number)).collect();
        let mut replies: Vec<_> = peers.iter().map(|peer| Traffic::new(seed, peer.number, hub.number)).collect();
        for _ in 0..BURSTS {
            let frames = traffic.iter_mut().map(|traffic| traffic.burst(100, 120_000)).collect();
            Direction::send_mixed(&mut out, &mut rng, frames);
            for (path, traffic) in back.iter_mut().zip(&mut replies) {
                path.send(&traffic.burst(100, 120_000));
            }
            out.iter_mut().chain(&mut back).for_each(Direction::settle);
        }
    }
}
