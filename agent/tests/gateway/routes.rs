//! Who is reached, and by how many streams.

use dstack_simulator::gateway::Limits as GatewayLimits;
use mesh_core::status::Reason;
use p2p_agent::gateway::{Limits, MAX_DATAGRAM, PeerReport, Report, Trouble};

use super::{
    clock::SteadyClock,
    world::{World, talk, token, until, within},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_has_one_stream_to_exactly_that_instance() {
    let world = World::start(GatewayLimits::default()).await;
    // On a machine that is slow, what waits is old at once, and is dropped for what comes after it.
    let nodes = world.nodes::<4>(Limits { queue_age: super::world::DEADLINE, ..Limits::default() }).await;
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.token != a.token) {
            talk(a, b).await;
        }
    }
    until("one for each of six pairs", || world.counts().open == 6).await;
    for node in &nodes {
        let is_reached = |how: &PeerReport| how.stream.is_some() && how.trouble.is_none();
        let is_whole = |report: &Report| report.streams == 3 && report.peers.values().all(is_reached);
        let report = node.reports("a stream each", |report| is_whole(report).then(|| report.clone())).await;
        assert_eq!(report.peers.len(), 3);
        for (peer, how) in &report.peers {
            let dials = node.token < *peer;
            assert_eq!(how.next_dial.is_some(), dials, "the side that calls replaces it one day");
            // Every packet came from whom its stream is to.
            let stream = node.twin.route(*peer).unwrap();
            assert_eq!((stream.peer(), stream.dialed()), (Some(*peer), dials.then_some(*peer)));
            let carried = stream.carried();
            assert!(carried.received > 0 && carried.sent_bytes > 0 && carried.dropped == 0, "{carried:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_every_length_pass() {
    let world = World::start(GatewayLimits { buffer: 1000.try_into().unwrap(), ..GatewayLimits::default() }).await;
    let [a, b] =
        world.nodes::<2>(Limits { queue: 64 << 20, queue_age: super::world::DEADLINE, ..Limits::default() }).await;
    talk(&a, &b).await;
    let lengths = [16, 17, 148, 1452, 4093, 4094, 4095, 8191, 16_384, 32_000, MAX_DATAGRAM - 1, MAX_DATAGRAM];
    let sent: Vec<u64> = (0..lengths.len() as u64 * 20).collect();
    for number in &sent {
        let length = lengths[*number as usize % lengths.len()];
        assert!(a.twin.send(b.token, *number, length) && b.twin.send(a.token, *number, length));
    }
    for (from, to) in [(&a, &b), (&b, &a)] {
        until("all of them", || to.twin.peer(from.token, |peer| peer.heard.last() == sent.last())).await;
        let heard =
            to.twin.peer(from.token, |peer| peer.heard.iter().copied().filter(|n| *n < 1 << 40).collect::<Vec<_>>());
        assert_eq!(heard, sent, "all, whole and in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_later_is_found_and_one_that_is_removed_is_cut() {
    let world = World::start(GatewayLimits::default()).await;
    world.register(&[1]);
    let a = world.node(1, Limits::default()).await;
    world.acquaint(&a, &[1, 2]);
    // The gateway does not know instance 2.
    let trouble = a.trouble(token(2)).await;
    assert_eq!((trouble.reason(), trouble), (Some(Reason::GatewayPortPolicy), Trouble::Refused));
    assert!(a.twin.route(token(2)).is_none());

    world.register(&[1, 2]);
    let b = world.node(2, Limits::default()).await;
    world.acquaint(&b, &[1, 2]);
    talk(&a, &b).await;

    world.acquaint(&a, &[1]);
    until("the cut at the one", || a.twin.route(token(2)).is_none()).await;
    until("the cut at the other", || b.twin.route(token(1)).is_none()).await;
    assert!(within("the report", a.transport.report()).await.peers.is_empty());
    // The other may call as much as it likes: it is nobody now.
    world.acquaint(&b, &[1, 2]);
    world.acquaint(&a, &[1, 2]);
    talk(&a, &b).await;
}

/// In the time that a stop may take, of which a machine that stands still takes nothing.
#[tokio::test]
async fn a_node_that_stops_says_what_it_has_to_say() {
    let _clock = SteadyClock::start();
    let world = World::start(GatewayLimits::default()).await;
    // How old what waits may be is real time.
    let [a, b] = world.nodes::<2>(Limits { queue_age: super::world::DEADLINE, ..Limits::default() }).await;
    talk(&a, &b).await;
    for number in 0..500 {
        assert!(b.twin.send(a.token, number, 1000));
    }
    within("the stop", b.transport.stop()).await;
    until("the last word", || a.twin.peer(token(2), |peer| peer.heard.last() == Some(&499))).await;
    until("the end", || a.twin.route(token(2)).is_none()).await;
    let why = a.twin.peer(token(2), |peer| peer.history.iter().find(|route| route.is_err()).cloned());
    assert_eq!(why, Some(Err(Some(Trouble::Closed))));
}
