//! A node that leaves.

use std::time::Duration;

use mesh_core::path::PathKind;
use mesh_paths::Input;

use crate::world::{MS, SECOND, World, peers};

#[test]
fn a_node_that_stops_is_no_fault_of_its_stream() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_udp_cut = true);
    world.until("the gateway paths", |world| {
        world.is_usable(1, 2, PathKind::Gateway) && world.is_usable(2, 1, PathKind::Gateway)
    });
    world.tell(1, Input::Stop);
    let gateway = |world: &World| world.paths(2, 1).and_then(|paths| paths.gateway.clone());
    world.until("its end", |world| gateway(world).is_some_and(|gateway| !gateway.is_open));
    assert_eq!(gateway(&world).map(|gateway| gateway.reason), Some(None), "{:?}", gateway(&world));
    assert_eq!((world.node(1).paths.poll_timeout(), world.open_streams(1)), (None, 0), "it does nothing any more");
}

/// What node 2 last reported: that node 1 stopped so long ago.
fn stopped_for(world: &World) -> Option<Duration> {
    world.paths(2, 1).and_then(|paths| paths.report.stopped_for)
}

fn two_nodes(kind: PathKind) -> World {
    let mut world = World::with(2, SECOND * 3600, |world| {
        world.is_gateway_up = kind == PathKind::Gateway;
        world.is_udp_cut = kind == PathKind::Gateway;
    });
    if kind == PathKind::Direct {
        world.set_endpoint(1, 2);
        world.set_endpoint(2, 1);
    }
    world.until("the paths", |world| world.is_usable(1, 2, kind) && world.is_usable(2, 1, kind));
    world
}

#[test]
fn peers_hear_by_each_path_that_a_node_stops_and_when_it_is_there_again() {
    for kind in [PathKind::Direct, PathKind::Gateway] {
        let mut world = two_nodes(kind);
        world.run(SECOND * 10);
        assert_eq!(stopped_for(&world), None);
        let begun = world.now;
        world.tell(1, Input::Stopping);
        let took = world.until("the end of node 1", |world| stopped_for(world).is_some());
        assert!(took <= MS * 300, "{kind:?}: {took:?}");
        world.until("all to be said", |world| world.node(1).told.is_some());
        assert_eq!(world.node(1).told.map(|told| told - begun), Some(MS * 120), "{kind:?}");
        // Whatever it is asked, it answers nothing any more.
        let said = world.peer(1, 2).probes;
        world.talk(2, 1);
        world.run(SECOND * 3);
        assert_eq!(world.peer(1, 2).probes, said);

        world.start_again(1, peers(1, &[1, 2]));
        if kind == PathKind::Direct {
            world.set_endpoint(1, 2);
        }
        let took = world.until("node 1 again", |world| stopped_for(world).is_none());
        assert!(took <= SECOND * 20, "{kind:?}: {took:?}");
    }
}

#[test]
fn what_is_lost_of_the_stop_messages_is_said_again() {
    let mut world = two_nodes(PathKind::Direct);
    world.is_udp_cut = true;
    world.tell(1, Input::Stopping);
    world.run(MS * 50);
    assert_eq!(stopped_for(&world), None);
    world.is_udp_cut = false;
    world.until("the end of node 1", |world| stopped_for(world).is_some());
}

#[test]
fn without_peers_nothing_is_waited_for() {
    let mut world = World::new(1);
    world.tell(1, Input::Stopping);
    assert_eq!(world.nodes[&1].told, Some(world.now));
}

/// Such a node is no member any more, or does not know: its peers may not know it either.
#[test]
fn a_node_that_leaves_all_its_peers_says_so_once() {
    let mut world = two_nodes(PathKind::Direct);
    let said = world.peer(1, 2).probes;
    world.set_peers(1, peers(1, &[1]));
    assert_eq!(world.peer(1, 2).probes, said + 1);
    world.until("the end of node 1", |world| stopped_for(world).is_some());
}
