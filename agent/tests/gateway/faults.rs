//! Gateways that go away, receivers that stand still, and senders that send more than fits.

use std::time::Duration;

use dstack_simulator::gateway::Limits as GatewayLimits;
use p2p_agent::gateway::{Limits, Report, Trouble};

use super::world::{World, talk, token, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_comes_back_is_found_by_a_single_call_at_a_time() {
    let mut world = World::start(GatewayLimits::default()).await;
    let nodes = world.nodes::<4>(Limits::default()).await;
    for b in &nodes[1..] {
        talk(&nodes[0], b).await;
    }
    for _ in 0..2 {
        world.kill_gateway().await;
        for node in &nodes {
            for peer in &nodes {
                until("the loss", || node.twin.route(peer.token).is_none()).await;
            }
        }
        // Before the first call has failed all may call; from then on one finds out for all, every second at the latest.
        let is_known = |report: &Report| {
            let is_away = |trouble: &Trouble| matches!(trouble, Trouble::Unreachable(_));
            report.peers.values().any(|peer| peer.trouble.as_ref().is_some_and(is_away)) && report.streams <= 1
        };
        nodes[0].reports("a failed call", |report| is_known(report).then_some(())).await;
        let mut looks = 0;
        nodes[0]
            .reports("some rounds of calls", |report| {
                assert!(report.streams <= 1, "{} calls at once to a gateway that is away", report.streams);
                looks += 1;
                (looks == 400).then_some(())
            })
            .await;
        world.restart_gateway().await;
        for a in &nodes {
            for b in nodes.iter().filter(|b| b.token > a.token) {
                talk(a, b).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_drops_old_datagrams_and_never_breaks_the_stream() {
    const COUNT: u64 = 100_000;
    let world = World::start(GatewayLimits::default()).await;
    let [a, b] =
        world.nodes::<2>(Limits { queue: 256 << 10, queue_age: super::world::DEADLINE, ..Limits::default() }).await;
    talk(&a, &b).await;
    let stream = a.twin.route(b.token).unwrap();
    let flood = std::sync::Arc::clone(&stream);
    within(
        "the flood, which nothing slows down",
        tokio::task::spawn_blocking(move || {
            for number in 0..COUNT {
                assert!(flood.send(&super::device::packet(token(1), number, 1400)));
            }
        }),
    )
    .await
    .unwrap();
    // The newest is never the one that is dropped.
    until("the last one", || b.twin.peer(a.token, |peer| peer.heard.last() == Some(&(COUNT - 1)))).await;
    let heard = b.twin.peer(a.token, |peer| peer.heard.iter().filter(|number| **number < COUNT).count() as u64);
    assert_eq!(heard + stream.carried().dropped, COUNT, "each was heard or counted as dropped");
    assert!(b.twin.peer(a.token, |peer| peer.heard.iter().filter(|number| **number < COUNT).is_sorted()));
    assert_eq!(a.twin.peer(b.token, |peer| peer.history.len()), 1, "the stream is the one it was");
    talk(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_receiver_that_stands_still_is_given_up_and_found_again() {
    let write_stall = Duration::from_secs(1);
    let world = World::start(GatewayLimits { write_stall, ..GatewayLimits::default() }).await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    talk(&a, &b).await;
    let still = b.twin.gate.lock().unwrap();
    let mut number = 0;
    // Nothing slows the sender down; the gateway loses patience.
    let ended = tokio::task::block_in_place(|| {
        let begun = std::time::Instant::now();
        while a.twin.send(b.token, number, 1400) {
            number += 1;
            if number % 64 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            if begun.elapsed() > super::world::DEADLINE {
                return false;
            }
        }
        true
    });
    drop(still);
    assert!(ended, "the stream never ended");
    // The stream refuses datagrams a moment before its owner is told why.
    let was_told = |history: &[_]| history.iter().any(|route| matches!(route, Err(Some(_))));
    until("the loss", || a.twin.peer(b.token, |peer| was_told(&peer.history))).await;
    talk(&a, &b).await;
    until("the gateway's count", || world.counts().stalled >= 1).await;
}
