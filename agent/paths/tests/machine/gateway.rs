//! Gateways that go away, and streams that are replaced.

use std::net::IpAddr;

use mesh_core::{
    path::{PathKind, rank},
    status::Reason,
};
use mesh_paths::{Input, Sources};

use crate::world::{SECOND, World, peers};

#[test]
fn every_pair_has_one_stream_and_the_lower_token_dials() {
    let mut world = World::new(4);
    world.until("all gateway paths", |world| {
        (1..5).all(|n| (1..5).all(|peer| n == peer || world.is_usable(n, peer, PathKind::Gateway)))
    });
    world.run(SECOND * 2);
    assert_eq!(world.dials, 6, "one for each pair");
    for n in 1..5 {
        assert_eq!(world.node(n).reported.streams, Some(3));
        for peer in (1..5).filter(|peer| *peer != n) {
            let gateway = world.paths(n, peer).unwrap().gateway.clone().unwrap();
            assert_eq!(gateway.next_dial.is_some(), n < peer, "the side that dials replaces it one day");
            let endpoint = format!("tls://{}-51822s.gw.test:443", hex::encode([peer; 20]));
            assert_eq!((gateway.endpoint, gateway.reason), (endpoint, None));
        }
    }
}

#[test]
fn a_gateway_that_comes_back_is_found_by_a_single_dial_at_a_time() {
    let mut world = World::new(4);
    world.until("all streams", |world| (1..5).all(|n| world.open_streams(n) == 3));
    world.kill_gateway();
    world.run(SECOND * 3);
    // Of every peer, also at the node that dials none.
    for n in 1..5 {
        for peer in world.node(n).reported.peers.values() {
            let gateway = peer.gateway.as_ref().unwrap();
            let path = peer.report.paths[rank(PathKind::Gateway)].reason;
            let expected = (false, Some(Reason::GatewayUnreachable));
            assert_eq!(((gateway.is_open, gateway.reason), path), (expected, expected.1), "node {n}: {gateway:?}");
        }
    }
    // Each node dials once in half a second to a second for all its peers.
    let before = world.dials;
    world.run(SECOND * 20);
    assert!((80..=165).contains(&(world.dials - before)), "{} dials", world.dials - before);
    // And of one that is new, and was never dialed.
    world.set_peers(1, peers(1, &[1, 2, 3, 4, 5]));
    world.run(SECOND * 3);
    assert_eq!(world.paths(1, 5).unwrap().gateway.clone().unwrap().reason, Some(Reason::GatewayUnreachable));
    world.is_gateway_up = true;
    let took = world.until("all streams again", |world| (1..5).all(|n| world.open_streams(n) == 3));
    assert!(took <= SECOND * 2, "{took:?}");
}

#[test]
fn a_peer_that_the_gateway_does_not_know_is_found_when_it_comes() {
    let mut world = World::new(1);
    world.set_peers(1, peers(1, &[1, 2]));
    world.run(SECOND * 2);
    let gateway = world.paths(1, 2).unwrap().gateway.clone().unwrap();
    assert_eq!(gateway.reason, Some(Reason::GatewayPortPolicy));
    assert!(gateway.words.is_some_and(|words| words.contains("does not know the instance")));
}

/// Streams are replaced every second or two, and that is no fault.
#[test]
fn a_stream_that_takes_anothers_place_is_no_fault_and_loses_nothing() {
    // There is no other path, and none to be found.
    let mut world = World::with(2, SECOND * 2, |world| world.is_udp_cut = true);
    world.until("the gateway paths", |world| {
        world.is_usable(1, 2, PathKind::Gateway) && world.is_usable(2, 1, PathKind::Gateway)
    });
    let before = [(1, 2), (2, 1)].map(|(n, peer)| world.peer(n, peer).streams.len());
    world.talk(1, 2);
    world.talk(2, 1);
    world.run(SECOND * 30);
    for ((n, peer), before) in [(1, 2), (2, 1)].into_iter().zip(before) {
        let streams = world.peer(n, peer).streams.split_off(before);
        assert!(streams.len() >= 12 && streams.iter().all(|is_open| *is_open), "{streams:?}");
        let received = &world.peer(n, peer).received;
        let missing = (0..1000).find(|number| !received.iter().any(|(got, _)| got == number));
        assert_eq!(missing, None, "of what {peer} sent to {n}");
        assert!(world.node(n).switches.is_empty(), "{:?}", world.node(n).switches);
        let gateway = world.paths(n, peer).unwrap().gateway.clone().unwrap();
        assert!(gateway.is_open && gateway.reason.is_none() && world.uses(n, peer, PathKind::Gateway));
    }
}

#[test]
fn a_change_of_the_network_makes_new_streams_and_keeps_the_old_ones_until_then() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_udp_cut = true);
    let from = |last: u8| Sources([Some(IpAddr::from([192, 0, 2, last])), None]);
    world.tell(1, Input::HostChanged { sources: from(1) });
    world.until("the gateway paths", |world| {
        world.is_usable(1, 2, PathKind::Gateway) && world.is_usable(2, 1, PathKind::Gateway)
    });
    for last in 2..4 {
        let streams = world.peer(2, 1).streams.len();
        world.run(SECOND * 2);
        assert_eq!(world.peer(2, 1).streams.len(), streams);
        world.tell(1, Input::HostChanged { sources: from(last) });
        world.until("a new stream", |world| world.peer(2, 1).streams.len() > streams);
    }
    assert!([(1, 2), (2, 1)].into_iter().all(|(n, peer)| world.peer(n, peer).streams.iter().all(|is_open| *is_open)));
    // The side that does not dial makes none.
    let dials = world.dials;
    world.tell(2, Input::HostChanged { sources: from(9) });
    world.run(SECOND * 40);
    assert_eq!((world.dials, world.open_streams(1)), (dials, 1));
}

/// A stream that is open and carries nothing is found out by the choice of paths, which has another made.
#[test]
fn a_stream_that_carries_nothing_is_replaced() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_udp_cut = true);
    world.until("the gateway path", |world| world.is_usable(1, 2, PathKind::Gateway));
    world.talk(1, 2);
    world.run(SECOND * 4);
    let dials = world.dials;
    world.silence_streams();
    let took = world
        .until("another stream that carries", |world| world.dials > dials && world.is_usable(1, 2, PathKind::Gateway));
    assert!(took < SECOND * 15, "{took:?}");
}

/// A gateway that went away without a word leaves streams open: a dial finds out why nothing comes by them.
#[test]
fn streams_through_a_gateway_that_is_silent_are_said_to_be_behind_one_that_is_away() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_udp_cut = true);
    world.until("the gateway path", |world| world.is_usable(1, 2, PathKind::Gateway));
    world.talk(1, 2);
    world.run(SECOND * 4);
    world.silence_streams();
    world.is_gateway_up = false;
    let took = world.until("the reason", |world| {
        let paths = world.paths(1, 2).unwrap();
        let gateway = paths.gateway.as_ref().unwrap();
        let reasons = [gateway.reason, paths.report.paths[rank(PathKind::Gateway)].reason];
        gateway.is_open && gateway.words.is_some() && reasons == [Some(Reason::GatewayUnreachable); 2]
    });
    assert!(took < SECOND * 6, "{took:?}");
}

/// A machine that vanishes ends no stream, and where nothing is sent nothing is missed: peers are asked.
#[test]
fn a_gateway_that_vanishes_from_an_idle_mesh_is_missed_by_all_within_ten_seconds() {
    const NODES: u8 = 4;
    let pairs = || (1..=NODES).flat_map(|n| (1..=NODES).filter(move |peer| *peer != n).map(move |peer| (n, peer)));
    for rest in 0..8 {
        let mut world = World::with(NODES, SECOND * 3600, |world| world.is_udp_cut = true);
        world.until("the gateway paths", |world| pairs().all(|(n, peer)| world.is_usable(n, peer, PathKind::Gateway)));
        world.run(SECOND * 40 + SECOND / 4 * rest);
        world.crash_gateway();
        let took = world.until("every node to say so of every peer", |world| {
            pairs().all(|(n, peer)| {
                let paths = world.paths(n, peer).unwrap();
                let reasons =
                    [paths.gateway.as_ref().unwrap().reason, paths.report.paths[rank(PathKind::Gateway)].reason];
                reasons == [Some(Reason::GatewayUnreachable); 2]
            })
        });
        assert!(took <= SECOND * 9, "{took:?}");
        world.reboot_gateway();
        let took = world.until("all paths again", |world| {
            pairs().all(|(n, peer)| world.is_usable(n, peer, PathKind::Gateway) && world.open_streams(n) == 3)
        });
        assert!(took <= SECOND * 5, "{took:?}");
    }
}

/// What an idle mesh says by the gateway: a question and its answer for each node in two seconds, however many peers there are.
#[test]
fn an_idle_mesh_asks_for_its_gateway_once_in_two_seconds() {
    const NODES: u8 = 8;
    let mut world = World::with(NODES, SECOND * 3600, |world| world.is_udp_cut = true);
    world.run(SECOND * 60);
    let probes = |world: &mut World| -> u64 {
        let mut of =
            |n: u8| (1..=NODES).filter(|peer| *peer != n).map(|peer| world.peer(n, peer).probes as u64).sum::<u64>();
        (1..=NODES).map(&mut of).sum()
    };
    let (before, dials) = (probes(&mut world), world.dials);
    world.run(SECOND * 100);
    let each = (probes(&mut world) - before) as f64 / f64::from(NODES) / 100.0;
    // And those of each peer in 25 s, with their answers: 7 * 2 / 25.
    assert!((0.6..=1.6).contains(&each), "{each} packets a second from each node");
    assert_eq!(world.dials, dials, "a gateway that is there is not dialed");
}

/// A peer that is gone is no gateway that is gone.
#[test]
fn a_peer_that_does_not_answer_is_not_taken_for_its_gateway() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_udp_cut = true);
    world.until("the gateway path", |world| world.is_usable(1, 2, PathKind::Gateway));
    world.run(SECOND * 40);
    world.remove_device(2);
    let dials = world.dials;
    world.run(SECOND * 60);
    let gateway = world.paths(1, 2).unwrap().gateway.clone().unwrap();
    assert_ne!(gateway.reason, Some(Reason::GatewayUnreachable));
    assert!((1..=15).contains(&(world.dials - dials)), "{} dials in a minute", world.dials - dials);
}
