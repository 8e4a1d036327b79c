//! A node that leaves.

use mesh_core::path::PathKind;
use mesh_paths::Input;

use crate::world::{SECOND, World};

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
