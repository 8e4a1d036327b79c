//! Paths that fail and come back under packets that go on.

use std::time::Duration;

use mesh_core::path::PathKind;
use p2p_agent::gateway::Limits;

use super::world::{Node, World, key, token, until};

async fn until_both_paths(a: &Node, b: &Node) {
    until("both paths both ways", || {
        [PathKind::Direct, PathKind::Gateway].into_iter().all(|kind| a.is_usable(b, kind) && b.is_usable(a, kind))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_take_the_gateway_while_direct_udp_is_dead_and_return_when_it_is_not() {
    let world = World::start().await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    a.twin.set_endpoint(key(b.n), World::udp(b.n));
    b.twin.set_endpoint(key(a.n), World::udp(a.n));
    until_both_paths(&a, &b).await;
    let talks = [a.talk_to(&b), b.talk_to(&a)];
    until("packets that go directly", || a.uses(&b, PathKind::Direct) && b.uses(&a, PathKind::Direct)).await;

    world.air.cut(true);
    let dead_at = talks[0].next();
    until("packets by the gateway", || {
        b.twin.peer(key(a.n), |peer| {
            peer.heard.iter().any(|(number, way)| *number > dead_at && *way == PathKind::Gateway)
        })
    })
    .await;
    until("the gateway in use", || a.uses(&b, PathKind::Gateway) && b.uses(&a, PathKind::Gateway)).await;
    for node in [&a, &b] {
        let paths = node.paths(if node.n == a.n { &b } else { &a }).unwrap();
        let gateway = paths.gateway.unwrap();
        assert!(gateway.is_open && gateway.endpoint.starts_with("tls://"), "{gateway:?}");
        assert!(gateway.endpoint.ends_with("s.gw.test:443"), "{gateway:?}");
    }

    world.air.cut(false);
    until("direct UDP in use again", || a.uses(&b, PathKind::Direct) && b.uses(&a, PathKind::Direct)).await;
    for (node, peer) in [(&a, &b), (&b, &a)] {
        let switches = node.switches();
        let there = switches.iter().filter(|(_, switch)| switch.to == PathKind::Gateway).collect::<Vec<_>>();
        assert!(!there.is_empty() && there.iter().all(|(of, _)| *of == token(peer.n)), "{switches:?}");
        assert!(there.iter().all(|(_, switch)| switch.trouble.is_some()), "{switches:?}");
        let (_, back) = switches.iter().rfind(|(_, switch)| switch.to == PathKind::Direct).unwrap();
        assert_eq!(back.trouble, None);
    }
}

/// Streams are replaced every second or two, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_anothers_place_is_no_fault() {
    let world = World::start().await;
    // There is no other path, and none to be found.
    world.air.cut(true);
    let limits = Limits { redial_after: Duration::from_secs(2), ..Limits::default() };
    let [a, b] = world.nodes::<2>(limits).await;
    until("the gateway path", || a.is_usable(&b, PathKind::Gateway) && b.is_usable(&a, PathKind::Gateway)).await;
    let _talks = [a.talk_to(&b), b.talk_to(&a)];
    for (node, peer) in [(&a, &b), (&b, &a)] {
        let streams = || node.twin.peer(key(peer.n), |peer| peer.streams.clone());
        until("some streams", || streams().len() >= 5).await;
        assert!(streams().iter().all(|is_open| *is_open), "{:?}", streams());
        // But for the moment after a machine has stood still.
        until("a stream that is used, and without fault", || {
            let gateway = node.paths(peer).and_then(|paths| paths.gateway);
            let is_sound = gateway.is_some_and(|gateway| gateway.is_open && gateway.reason.is_none());
            is_sound && node.uses(peer, PathKind::Gateway)
        })
        .await;
        assert!(node.switches().is_empty(), "{:?}", node.switches());
    }
}
