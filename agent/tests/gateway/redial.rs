//! Streams that are replaced before the gateway ends them.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use dstack_simulator::gateway::Limits as GatewayLimits;
use p2p_agent::gateway::Limits;

use super::world::{DEADLINE, Node, World, talk, until};

const SECOND: Duration = Duration::from_secs(1);

/// How many streams a node has reached its peer by.
fn streams(node: &Node, peer: &Node) -> usize {
    node.twin.peer(peer.token, |peer| peer.history.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_streams_are_replaced() {
    const STREAMS: usize = 6;
    // So long that a machine that stands still for seconds does not outlive it, and shorter than the test.
    let lifetime = 20 * SECOND;
    let world = World::start(GatewayLimits { lifetime, ..GatewayLimits::default() }).await;
    // Room for what is sent while the machine is busy with something else.
    let limits =
        Limits { redial_after: 2 * SECOND, queue: 64 << 20, queue_age: super::world::DEADLINE, ..Limits::default() };
    let [a, b] = world.nodes::<2>(limits).await;
    talk(&a, &b).await;
    let begun = Instant::now();
    let is_over = AtomicBool::new(false);
    // From threads of their own, as a device sends: at any moment, the moments of going over included.
    let flow = |from: &Node, to: &Node| {
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            // Many at a time, so that streams are found over between being looked up and used.
            for _ in 0..32 {
                assert!(from.twin.send(to.token, number, 0), "there is always a stream");
                number += 1;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        number
    };
    let sent = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let flows = [scope.spawn(|| flow(&a, &b)), scope.spawn(|| flow(&b, &a))];
            let is_enough =
                || begun.elapsed() > lifetime + SECOND && streams(&a, &b) >= STREAMS && streams(&b, &a) >= STREAMS;
            while !is_enough() && begun.elapsed() < DEADLINE && !flows.iter().any(|flow| flow.is_finished()) {
                std::thread::sleep(SECOND / 20);
            }
            is_over.store(true, Ordering::Relaxed);
            flows.map(|flow| flow.join().unwrap())
        })
    });
    assert!(begun.elapsed() < DEADLINE, "{} and {} streams", streams(&a, &b), streams(&b, &a));
    for (from, to) in [(&a, &b), (&b, &a)] {
        to.twin.peer(from.token, |peer| assert!(peer.history.iter().all(Result::is_ok), "{:?}", peer.history));
    }
    assert_eq!(world.counts().lifetime, 0, "the gateway ended none");
    for ((from, to), sent) in [(&a, &b), (&b, &a)].into_iter().zip(sent) {
        let heard = || {
            let mut heard = to.twin.peer(from.token, |peer| peer.heard.clone());
            heard.retain(|number| *number < 1 << 40);
            heard
        };
        let begun = Instant::now();
        while (heard().len() as u64) < sent && begun.elapsed() < DEADLINE {
            tokio::time::sleep(SECOND / 50).await;
        }
        let set: BTreeSet<u64> = heard().into_iter().collect();
        let missing: Vec<u64> = (0..sent).filter(|number| !set.contains(number)).take(9).collect();
        assert!(missing.is_empty(), "{missing:?}… of {sent} are lost; {:?}", world.counts());
        assert_eq!(heard().len() as u64, sent, "each once");
    }
    for node in [&a, &b] {
        node.reports("one, and one that is being replaced", |report| (report.streams <= 2).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_network_makes_new_streams_and_keeps_the_old_ones_until_then() {
    let world = World::start(GatewayLimits::default()).await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    talk(&a, &b).await;
    for wanted in 2..4 {
        // More than one in a second does not count.
        until("a new stream", || {
            a.transport.hurry();
            streams(&a, &b) >= wanted && streams(&b, &a) >= wanted
        })
        .await;
        talk(&a, &b).await;
    }
    a.twin.peer(b.token, |peer| assert!(peer.history.iter().all(Result::is_ok), "{:?}", peer.history));
    // The side that does not call makes none.
    let before = world.counts().accepted;
    b.transport.hurry();
    b.transport.redial(a.token);
    talk(&a, &b).await;
    until("old streams to end", || world.counts().open == 1).await;
    assert!(world.counts().accepted <= before + 1, "only what the other had begun");
}

/// An open stream that carries nothing is for the choice of paths to find out, which then asks for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_replaced_on_demand() {
    let world = World::start(GatewayLimits::default()).await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    talk(&a, &b).await;
    until("another stream", || {
        a.transport.redial(b.token);
        streams(&a, &b) >= 2 && streams(&b, &a) >= 2
    })
    .await;
    talk(&a, &b).await;
}
