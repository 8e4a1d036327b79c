//! Peers that go, and devices that are made anew.

use std::sync::Arc;

use mesh_core::path::PathKind;
use p2p_agent::gateway::Limits;

use super::{
    clock::SteadyClock,
    device::Twin,
    world::{World, key, token, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_removed_has_no_stream_and_gets_no_probe() {
    let world = World::start().await;
    let [a, b, c] = world.nodes::<3>(Limits::default()).await;
    until("the gateway paths", || [&b, &c].into_iter().all(|peer| a.is_usable(peer, PathKind::Gateway))).await;
    a.set_peers(world.peers(a.n, &[1, 2]));
    until("no stream", || a.twin.peer(key(c.n), |peer| peer.stream.is_none())).await;
    until("no word of it", || !a.told.lock().unwrap().last.peers.contains_key(&token(c.n))).await;
    let probes = a.twin.peer(key(c.n), |peer| peer.probes);
    // Whoever is left is looked after as before.
    let before = a.twin.peer(key(b.n), |peer| peer.probes);
    let _talk = a.talk_to(&b);
    until("probes to the other", || a.twin.peer(key(b.n), |peer| peer.probes) > before + 3).await;
    assert_eq!(a.twin.peer(key(c.n), |peer| peer.probes), probes);
    until("the other's path", || a.is_usable(&b, PathKind::Gateway)).await;

    a.set_peers(world.peers(a.n, &[1, 2, 3]));
    until("the peer again", || a.is_usable(&c, PathKind::Gateway) && c.is_usable(&a, PathKind::Gateway)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_device_is_given_the_streams_and_routes_of_the_last_one() {
    let world = World::start().await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    a.twin.set_endpoint(key(b.n), World::udp(b.n));
    until("both paths", || a.is_usable(&b, PathKind::Gateway) && a.is_usable(&b, PathKind::Direct)).await;

    a.port.put_device(None);
    until("no endpoint", || a.paths(&b).is_some_and(|paths| paths.direct.is_none())).await;
    let next = Twin::new(key(a.n), World::udp(a.n), &world.air, a.port.ear());
    a.port.put_device(Some(Arc::<Twin>::clone(&next)));
    until("its stream and its route", || {
        next.peer(key(b.n), |peer| {
            peer.stream.is_some() && peer.route.is_some_and(|route| route.contains(PathKind::Gateway))
        })
    })
    .await;
    let probes = a.twin.peer(key(b.n), |peer| peer.probes);
    next.set_endpoint(key(b.n), World::udp(b.n));
    until("both paths again", || a.is_usable(&b, PathKind::Gateway) && a.is_usable(&b, PathKind::Direct)).await;
    assert_eq!(a.twin.peer(key(b.n), |peer| peer.probes), probes, "nothing goes to a device that is no more");
    assert!(a.told.lock().unwrap().last.streams.is_some_and(|streams| streams >= 1));
}

/// The device was told of a peer again, and may have forgotten what it was told of it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_made_anew_gets_its_stream_back() {
    let world = World::start().await;
    // Else another endpoint is found at once.
    world.air.cut(true);
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    a.twin.set_endpoint(key(b.n), World::udp(b.n));
    until("both paths", || {
        a.is_usable(&b, PathKind::Gateway) && a.paths(&b).is_some_and(|paths| paths.direct.is_some())
    })
    .await;
    let before = a.twin.peer(key(b.n), |peer| peer.streams.len());
    a.port.peer_removed(key(b.n));
    until("no endpoint", || a.paths(&b).is_some_and(|paths| paths.direct.is_none())).await;
    a.port.peer_set(key(b.n));
    until("its stream", || a.twin.peer(key(b.n), |peer| peer.streams.len() > before && peer.stream.is_some())).await;
}

/// What the one that does not call sees of the other's end, which nothing comes after: an end in the time that a stop may take,
/// of which a machine that stands still takes nothing.
#[tokio::test]
async fn a_node_that_stops_is_no_fault_of_its_stream() {
    let _clock = SteadyClock::start();
    let world = World::start().await;
    world.air.cut(true);
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    until("the gateway paths", || a.is_usable(&b, PathKind::Gateway) && b.is_usable(&a, PathKind::Gateway)).await;
    a.stop();
    let gateway = || b.paths(&a).and_then(|paths| paths.gateway);
    until("its end", || gateway().is_some_and(|gateway| !gateway.is_open)).await;
    assert_eq!(gateway().map(|gateway| gateway.reason), Some(None), "{:?}", gateway());
}

/// A node registered anew, with another key: the stream to it is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_key_is_reached_by_the_stream_there_is() {
    let world = World::start().await;
    world.air.cut(true);
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    until("the gateway path", || a.is_usable(&b, PathKind::Gateway)).await;
    let mut peers = world.peers(a.n, &[1, 2]);
    peers.peers.get_mut(&token(b.n)).unwrap().public_key = key(9);
    a.set_peers(peers);
    until("its stream and probes by it", || {
        let is_reached = a.twin.peer(key(9), |peer| peer.stream.is_some() && peer.probes > 0);
        is_reached && a.twin.peer(key(b.n), |peer| peer.stream.is_none())
    })
    .await;
    until("word of it", || a.paths(&b).is_some_and(|paths| paths.gateway.is_some_and(|gateway| gateway.is_open))).await;
}
