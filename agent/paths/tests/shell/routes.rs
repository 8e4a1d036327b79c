//! What streams carry, and to whom.

use mesh_core::status::Reason;
use mesh_paths::stream::{Limits, MAX_DATAGRAM};

use crate::world::{DEADLINE, World, talk, until};

#[tokio::test(start_paused = true)]
async fn every_pair_has_one_stream_to_exactly_that_instance() {
    let world = World::new();
    let nodes = world.nodes::<4>(Limits::default());
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.n != a.n) {
            talk(a, b).await;
        }
    }
    for node in &nodes {
        until("a stream each", || node.streams() == 3 && (1..5).all(|n| n == node.n || node.is_usable(n))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_of_every_length_pass() {
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits { queue: 64 << 20, queue_age: DEADLINE, ..Limits::default() });
    talk(&a, &b).await;
    let lengths = [41, 148, 1452, 4093, 4094, 4095, 8191, 16_384, 32_000, MAX_DATAGRAM - 1, MAX_DATAGRAM];
    let sent: Vec<u64> = (0..lengths.len() as u64 * 20).collect();
    for number in &sent {
        let length = lengths[*number as usize % lengths.len()];
        assert!(a.twin.send(b.key(), *number, length) && b.twin.send(a.key(), *number, length));
    }
    for (from, to) in [(&a, &b), (&b, &a)] {
        let received = || -> Vec<u64> {
            to.twin.peer(from.key(), |peer| peer.received.iter().copied().filter(|n| *n < 1 << 40).collect())
        };
        until("all of them", || received().len() == sent.len()).await;
        assert_eq!(received(), sent, "all, whole and in order");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_later_is_found_and_one_that_is_removed_is_cut() {
    let world = World::new();
    let a = world.node(1, Limits::default());
    a.set_peers(&[1, 2]);
    // The gateway does not know instance 2.
    until("the reason", || a.gateway(2).is_some_and(|seen| seen.reason == Some(Reason::GatewayPortPolicy))).await;
    assert!(!a.twin.is_reached(super::device::key(2)));

    let b = world.node(2, Limits::default());
    b.set_peers(&[1, 2]);
    talk(&a, &b).await;

    a.set_peers(&[1]);
    until("the cut at both", || !a.twin.is_reached(b.key()) && !b.twin.is_reached(a.key())).await;
    a.set_peers(&[1, 2]);
    talk(&a, &b).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_node_that_stops_has_queued_is_delivered() {
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits::default());
    talk(&a, &b).await;
    for number in 0..500 {
        assert!(b.twin.send(a.key(), number, 1000));
    }
    b.stop();
    until("the end", || !a.twin.is_reached(b.key())).await;
    assert_eq!(a.twin.peer(b.key(), |peer| peer.received.last().copied()), Some(499));
    until("the report", || a.gateway(2).is_some_and(|gateway| !gateway.is_open)).await;
    assert_eq!(a.gateway(2).unwrap().reason, None, "no fault");
}
