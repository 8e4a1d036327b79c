//! Streams that are replaced before the gateway ends them.

use std::time::Duration;

use mesh_paths::stream::Limits;
use tokio::time::{Instant, sleep};

use crate::world::{DEADLINE, SECOND, World, talk, until};

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_streams_are_replaced() {
    const STREAMS: usize = 6;
    let world = World::new();
    let limits = Limits { redial_after: 2 * SECOND, queue: 64 << 20, queue_age: DEADLINE, ..Limits::default() };
    let [a, b] = world.nodes::<2>(limits);
    talk(&a, &b).await;
    let streams =
        |from: &super::world::Node, to: &super::world::Node| from.twin.peer(to.key(), |peer| peer.streams.len());
    let (begun, mut number) = (Instant::now(), 0);
    while streams(&a, &b) < STREAMS || streams(&b, &a) < STREAMS {
        assert!(begun.elapsed() < DEADLINE, "{} and {} streams", streams(&a, &b), streams(&b, &a));
        for _ in 0..32 {
            assert!(a.twin.send(b.key(), number, 0) && b.twin.send(a.key(), number, 0), "there is always a stream");
            number += 1;
        }
        sleep(Duration::from_millis(2)).await;
    }
    for (from, to) in [(&a, &b), (&b, &a)] {
        let received = || -> Vec<u64> {
            to.twin.peer(from.key(), |peer| peer.received.iter().copied().filter(|n| *n < 1 << 40).collect())
        };
        until("all", || received().len() as u64 == number).await;
        let mut all = received();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..number), "each once");
        assert!(to.twin.peer(from.key(), |peer| peer.streams.iter().all(|is_open| *is_open)));
        until("one, and one that is being replaced", || to.streams() <= 2).await;
    }
}
