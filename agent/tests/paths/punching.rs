//! Two nodes that know no address of each other, behind NATs that let in only whom they have called.

use mesh_core::path::PathKind;
use p2p_agent::gateway::Limits;

use super::world::{World, key, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_who_meet_at_the_gateway_find_the_direct_way() {
    let world = World::start().await;
    world.air.restrict();
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    until("direct UDP", || a.is_usable(&b, PathKind::Direct) && b.is_usable(&a, PathKind::Direct)).await;
    for (node, peer) in [(&a, &b), (&b, &a)] {
        assert_eq!(node.paths(peer).unwrap().direct, Some(World::udp(peer.n)));
        node.twin.peer(key(peer.n), |peer_seen| {
            assert!(peer_seen.tries.iter().all(|tried| *tried == World::udp(peer.n)), "{:?}", peer_seen.tries);
        });
    }
    // What can be had is used, and stays in use when this machine changes.
    let _talks = [a.talk_to(&b), b.talk_to(&a)];
    until("packets that go directly", || a.uses(&b, PathKind::Direct) && b.uses(&a, PathKind::Direct)).await;
    let before = a.twin.peer(key(b.n), |peer| peer.probes);
    a.machine.send_replace(());
    until("probes", || a.twin.peer(key(b.n), |peer| peer.probes) > before).await;
}
