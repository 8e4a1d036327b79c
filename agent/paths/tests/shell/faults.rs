//! Gateways that go away, receivers that stand still, and senders that send more than fits.

use std::sync::atomic::Ordering;

use mesh_core::status::Reason;
use mesh_paths::stream::Limits;

use crate::world::{DEADLINE, World, talk, until};

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_killed_is_found_again() {
    let world = World::new();
    let nodes = world.nodes::<3>(Limits::default());
    for _ in 0..2 {
        for a in &nodes {
            for b in nodes.iter().filter(|b| b.n > a.n) {
                talk(a, b).await;
            }
        }
        world.gateway.kill();
        for node in &nodes {
            let is_reached = |peer| node.twin.is_reached(super::device::key(peer));
            until("the loss", || (1..4).all(|peer| !is_reached(peer))).await;
        }
        let is_known =
            |peer| nodes[0].gateway(peer).is_some_and(|seen| seen.reason == Some(Reason::GatewayUnreachable));
        until("the reason", || is_known(2) || is_known(3)).await;
        world.gateway.restart();
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_drops_old_datagrams_and_never_breaks_the_stream() {
    const COUNT: u64 = 20_000;
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits { queue: 256 << 10, queue_age: DEADLINE, ..Limits::default() });
    talk(&a, &b).await;
    let before = a.twin.peer(b.key(), |peer| peer.streams.len());
    for number in 0..COUNT {
        assert!(a.twin.send(b.key(), number, 1400), "nothing slows it down");
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // The newest is never the one that is dropped.
    until("the last one", || b.twin.peer(a.key(), |peer| peer.received.last() == Some(&(COUNT - 1)))).await;
    let received: Vec<u64> =
        b.twin.peer(a.key(), |peer| peer.received.iter().copied().filter(|number| *number < COUNT).collect());
    assert!(received.is_sorted() && received.len() > 150, "{}", received.len());
    assert_eq!(a.twin.peer(b.key(), |peer| peer.streams.len()), before, "the stream is the one it was");
    talk(&a, &b).await;
}

/// A gateway in which nothing moves any more: what is written is not taken, and neither end learns of it.
#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_nothing_is_given_up_and_another_made() {
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits::default());
    talk(&a, &b).await;
    let connections = world.gateway.connections.load(Ordering::Relaxed);
    world.gateway.stand_still(true);
    until("the loss", || {
        a.twin.send(b.key(), 0, 1400);
        a.twin.peer(b.key(), |peer| peer.streams.contains(&false)) || !a.twin.is_reached(b.key())
    })
    .await;
    world.gateway.stand_still(false);
    talk(&a, &b).await;
    assert!(world.gateway.connections.load(Ordering::Relaxed) > connections);
}
