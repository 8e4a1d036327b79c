//! Peers that go, and devices that are made anew.

use mesh_core::path::PathKind;

use crate::world::{World, key, peers, token, udp};

#[test]
fn a_peer_that_is_removed_has_no_stream_and_gets_no_probe() {
    let mut world = World::new(3);
    world
        .until("the gateway paths", |world| [2, 3].into_iter().all(|peer| world.is_usable(1, peer, PathKind::Gateway)));
    world.set_peers(1, peers(1, &[1, 2]));
    assert!(world.peer(1, 3).stream.is_none());
    world.until("no report of it", |world| world.paths(1, 3).is_none());
    let (probes, before) = (world.peer(1, 3).probes, world.peer(1, 2).probes);
    // The other is looked after as before.
    world.talk(1, 2);
    world.until("probes to the other", |world| world.peer(1, 2).probes > before + 3);
    assert_eq!(world.peer(1, 3).probes, probes);
    assert!(world.is_usable(1, 2, PathKind::Gateway));

    world.set_peers(1, peers(1, &[1, 2, 3]));
    world.until("the peer again", |world| {
        world.is_usable(1, 3, PathKind::Gateway) && world.is_usable(3, 1, PathKind::Gateway)
    });
}

#[test]
fn another_device_is_given_the_streams_and_routes_of_the_last_one() {
    let mut world = World::new(2);
    world.set_endpoint(1, 2);
    let have_both =
        |world: &mut World| [PathKind::Gateway, PathKind::Direct].into_iter().all(|kind| world.is_usable(1, 2, kind));
    world.until("both paths", have_both);
    world.remove_device(1);
    world.until("no endpoint", |world| world.paths(1, 2).is_some_and(|paths| paths.direct.is_none()));
    world.put_device(1);
    let next = world.peer(1, 2);
    assert!(next.stream.is_some() && next.route.is_some_and(|route| route.stream), "{next:?}");
    world.set_endpoint(1, 2);
    world.until("both paths again", have_both);
    assert_eq!(world.node(1).reported.streams, Some(1));
}

/// A peer was set on the device again, which may have forgotten what was set before.
#[test]
fn a_peer_that_is_made_anew_gets_its_stream_back() {
    // Else another endpoint is found at once.
    let mut world = World::with(2, super::world::SECOND * 3600, |world| world.is_udp_cut = true);
    world.set_endpoint(1, 2);
    world.until("both paths", |world| {
        world.is_usable(1, 2, PathKind::Gateway) && world.paths(1, 2).is_some_and(|paths| paths.direct.is_some())
    });
    let before = world.peer(1, 2).streams.len();
    world.node(1).device.as_mut().unwrap().events.peer_removed(key(2));
    world.report_events(1);
    world.until("no endpoint", |world| world.paths(1, 2).is_some_and(|paths| paths.direct.is_none()));
    world.node(1).device.as_mut().unwrap().events.peer_set(key(2));
    world.report_events(1);
    let peer = world.peer(1, 2);
    assert!(peer.streams.len() > before && peer.stream.is_some());
}

/// A node registered anew, with another key: the stream to it is still there.
#[test]
fn a_peer_with_another_key_is_reached_by_the_stream_there_is() {
    let mut world = World::with(2, super::world::SECOND * 3600, |world| world.is_udp_cut = true);
    world.until("the gateway path", |world| world.is_usable(1, 2, PathKind::Gateway));
    let dials = world.dials;
    let mut other = peers(1, &[1, 2]);
    other.peers.get_mut(&token(2)).unwrap().public_key = key(9);
    world.set_peers(1, other);
    assert!(world.peer(1, 9).stream.is_some() && world.peer(1, 2).stream.is_none());
    world.until("probes by it", |world| world.peer(1, 9).probes > 0);
    world.until("a report of it", |world| {
        world.paths(1, 2).is_some_and(|paths| paths.gateway.as_ref().is_some_and(|gateway| gateway.is_open))
    });
    assert_eq!(world.dials, dials, "no other was made");
}

/// The device reports endpoints of peers that the agent names only then.
#[test]
fn an_endpoint_that_was_known_before_its_peer_is_used() {
    let mut world = World::new(2);
    world.set_peers(1, peers(1, &[1]));
    world.set_endpoint(1, 2);
    world.set_peers(1, peers(1, &[1, 2]));
    world.until("direct UDP", |world| world.paths(1, 2).is_some_and(|paths| paths.direct == Some(udp(2))));
}

/// A path is asked for what goes by it: where the device found that it carries less than the interface, less is full size.
#[test]
fn full_size_is_what_the_device_says_that_the_path_carries() {
    let mut world = World::new(2);
    world.set_endpoint(1, 2);
    let is_usable = |world: &mut World| world.is_usable(1, 2, PathKind::Direct);
    world.until("the direct path", is_usable);
    let device = |world: &mut World| world.node(1).device.take().unwrap();
    for mtu in [1420, 1340, 1420] {
        let mut changed = device(&mut world);
        changed.events.path_mtu(key(2), mtu);
        changed.peer(key(2)).longest = 0;
        world.node(1).device = Some(changed);
        world.report_events(1);
        world.talk(1, 2);
        world.until("a probe of full size", |world| world.peer(1, 2).longest == mtu.into());
    }
}
