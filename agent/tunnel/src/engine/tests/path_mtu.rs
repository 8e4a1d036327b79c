//! Packets of full size, over a path that is narrower than its ends know.

use std::cell::Cell;
use std::time::Duration;

use super::network::{Kind, Network, Passing};
use super::{LATENCY, S, World, address};

const MS: Duration = Duration::from_millis(1);

/// The datagrams of a hop with an MTU of 1400 bytes, without the headers of IP and UDP; inner packets may have 1340 bytes there.
const NARROW: usize = 1400 - 28;

const DONT_FRAGMENT: u8 = 0x40;

/// An IPv4 packet of 1420 bytes from the first node, whose payload is of this protocol and else of one byte.
fn packet(protocol: u8, flags: u8, byte: u8) -> Vec<u8> {
    let mut packet = vec![byte; 1420];
    packet[..20]
        .copy_from_slice(&[0x45, 0, 0x05, 0x8c, 0, byte, flags, 0, 64, protocol, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2]);
    packet
}

/// One of TCP, with the sequence number in its first bytes behind the ports.
fn segment(sequence: u32) -> Vec<u8> {
    let mut segment = packet(6, DONT_FRAGMENT, 7);
    segment[24..28].copy_from_slice(&sequence.to_be_bytes());
    segment[32..34].copy_from_slice(&[0x50, 0x10]);
    let sum = sum(&[&segment[12..20], &[0, 6, 0x05, 0x78], &segment[20..36], &segment[38..]].concat());
    segment[36..38].copy_from_slice(&(!sum).to_be_bytes());
    segment
}

/// That of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

impl World {
    /// Two nodes that have a session.
    fn connected(carries: usize) -> Self {
        let mut world = Self::introduced(1);
        world.run(S);
        world.carries = carries;
        world
    }

    fn offer(&mut self, packet: &[u8]) {
        self.with(0, |engine, _, now| engine.handle_packet(packet, now));
    }

    /// Sends a packet each 20 ms for this time.
    fn flow(&mut self, time: Duration, packet: &[u8]) {
        for _ in 0..time.as_millis() / 20 {
            self.offer(packet);
            self.run(20 * MS);
        }
    }

    /// What came to a node's interface since it was last asked.
    fn packets(&mut self, at: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[at].packets)
    }
}

#[test]
fn tcp_goes_on_in_shorter_segments_and_in_full_ones_when_the_path_widens() {
    let mut world = World::connected(NARROW);
    world.flow(2 * S, &segment(0));
    world.packets(1);
    world.offer(&segment(1000));
    world.run(2 * LATENCY);
    let segments = world.packets(1);
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1340, 40 + 80]);
    for (segment, sequence) in segments.iter().zip([1000, 2300_u32]) {
        assert_eq!(segment[24..28], sequence.to_be_bytes());
        assert_eq!(sum(&segment[..20]), 0xffff);
        let len = (segment.len() - 20) as u16;
        assert_eq!(sum(&[&segment[12..20], &[0, 6], &len.to_be_bytes(), &segment[20..]].concat()), 0xffff);
    }
    assert_eq!(world.packets(0), Vec::<Vec<u8>>::new(), "the sender is told nothing");

    world.carries = usize::MAX;
    world.flow(11 * S, &segment(0));
    world.packets(1);
    world.offer(&segment(0));
    world.run(2 * LATENCY);
    assert_eq!(world.packets(1), [segment(0)]);
    let reported: Vec<_> = world.history.iter().filter(|line| line.1 == 0 && line.2.contains("PathMtu")).collect();
    let sizes = ["mtu: 1420", "mtu: 1340", "mtu: 1420"];
    assert!(
        reported.len() == 3 && reported.iter().zip(sizes).all(|(line, size)| line.2.contains(size)),
        "{reported:?}"
    );
}

#[test]
fn what_may_be_fragmented_is_and_the_sender_of_what_may_not_is_told() {
    let mut world = World::connected(NARROW);
    world.flow(2 * S, &packet(17, 0, 7));
    let unsendable = |world: &World| world.nodes[0].engine.drops().unsendable;
    assert_eq!((world.packets(0).len(), unsendable(&world)), (0, 0));
    world.packets(1);
    world.offer(&packet(17, 0, 8));
    world.run(2 * LATENCY);
    let fragments = world.packets(1);
    assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [20 + 1320, 20 + 80]);

    world.offer(&packet(17, DONT_FRAGMENT, 9));
    world.run(2 * LATENCY);
    assert_eq!(world.packets(1).len(), 0);
    let told = world.packets(0);
    assert_eq!((told.len(), unsendable(&world)), (1, 1));
    // ICMP, "fragmentation needed": from the packet's destination to its source, with the size and what it is about.
    assert_eq!((told[0][9], &told[0][12..22]), (1, &[10, 0, 1, 2, 10, 0, 1, 1, 3, 4][..]));
    assert_eq!(
        (&told[0][26..28], &told[0][28..48]),
        (&1340_u16.to_be_bytes()[..], &packet(17, DONT_FRAGMENT, 9)[..20])
    );

    // Even where the sender does not listen, it is found that the path is wide again.
    world.carries = usize::MAX;
    world.flow(11 * S, &packet(17, DONT_FRAGMENT, 9));
    world.packets(1);
    world.offer(&packet(17, DONT_FRAGMENT, 9));
    world.run(2 * LATENCY);
    assert_eq!(world.packets(1).len(), 1);
}

#[test]
fn a_node_without_large_packets_sends_no_probe() {
    let mut world = World::connected(NARROW);
    let since = world.history.len();
    world.flow(10 * S, &super::packet(0, 1));
    world.run(600 * S);
    let long = world.history[since..].iter().filter(|line| line.2.contains("kind 4") && !line.2.contains(" 64 bytes"));
    assert!(long.clone().all(|line| line.2.contains(" 32 bytes")), "{:?}", long.collect::<Vec<_>>());
}

/// As wireguard-go and the kernel do, which know no probes: no packet is lost, and there are no more handshakes than without probes.
#[test]
fn a_counterpart_that_ignores_probes_is_not_disturbed_by_them() {
    let hour = |len| {
        let link = Box::new(|passing: &Passing<'_>| Some(address(passing.from as u8)));
        let mut network = Network::new([Kind::Other, Kind::Ours], true, LATENCY, link);
        network.len = len;
        network.ping(1, 3600 * S, 100 * MS);
        network.rest(S);
        assert_eq!(network.lost(), 0);
        (network.initiations.len(), network.data.values().sum::<usize>())
    };
    let (without, with) = (hour(32), hour(1400));
    assert_eq!(with.0, without.0);
    assert!((1..150).contains(&(with.1 - without.1)), "{} probes", with.1 - without.1);
}

/// Of the path to a counterpart that knows no probes nothing can be found out. So routers may cut what it is sent, but no probe.
#[test]
fn what_goes_to_a_counterpart_that_ignores_probes_gets_through_a_narrow_path() {
    let (whole, cut) = (Cell::new(0), Cell::new(0));
    let link = Box::new(|passing: &Passing<'_>| {
        let is_long = passing.bytes.len() > NARROW;
        if is_long && passing.from == 1 && passing.at >= 2 * S {
            let count = if passing.may_fragment { &cut } else { &whole };
            count.set(count.get() + 1);
        }
        (!is_long || passing.may_fragment).then(|| address(passing.from as u8))
    });
    let mut network = Network::new([Kind::Other, Kind::Ours], true, LATENCY, link);
    network.len = 1420;
    network.ping(1, 60 * S, 100 * MS);
    network.rest(S);
    assert!(network.lost() < 20, "{} of those of the first two seconds, at most", network.lost());
    assert_eq!(cut.get(), 580);
    assert!((1..100).contains(&whole.get()), "{} probes", whole.get());
}

/// Its own kind knows probes, however long the first takes.
#[test]
fn nothing_is_cut_on_the_way_to_a_node_that_knows_probes() {
    let link = Box::new(|passing: &Passing<'_>| {
        assert!(!passing.may_fragment, "at {:?}", passing.at);
        (passing.bytes.len() <= NARROW).then(|| address(passing.from as u8))
    });
    let mut network = Network::new([Kind::Ours, Kind::Ours], true, 300 * MS, link);
    network.len = 1420;
    network.ping(1, 60 * S, 100 * MS);
    network.rest(S);
    // At a round trip of 0.6 s each direction takes four seconds, the second once something comes by the first.
    assert!(network.lost() < 100, "{} lost", network.lost());
}
