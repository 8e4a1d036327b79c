//! A host whose addresses change.

use std::net::IpAddr;

use mesh_core::path::PathKind;
use mesh_paths::{Input, Sources};

use crate::world::{MS, SECOND, World};

fn sources(last: u8) -> Sources {
    Sources([Some(IpAddr::from([192, 0, 2, last])), None])
}

#[test]
fn an_idle_peer_hears_at_once_from_a_host_that_moved() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_gateway_up = false);
    world.set_endpoint(1, 2);
    world.set_endpoint(2, 1);
    world.until("direct UDP", |world| world.is_usable(1, 2, PathKind::Direct));
    world.tell(1, Input::HostChanged { sources: sources(7) });
    world.run(SECOND * 10);
    let moved = world.node(1).moves;
    // The address is gone ...
    let probes = world.peer(1, 2).probes;
    world.is_udp_cut = true;
    world.tell(1, Input::LocalAddresses { addresses: Vec::new(), sources: Sources::default() });
    assert_eq!(world.peer(1, 2).probes, probes + 1);
    // ... and a moment later there is another.
    world.run(MS * 60);
    world.is_udp_cut = false;
    let there = vec![([192, 0, 2, 8], 51821).into()];
    world.tell(1, Input::HostChanged { sources: sources(8) });
    world.tell(1, Input::LocalAddresses { addresses: there, sources: sources(8) });
    world.run(MS * 50);
    assert_eq!(world.peer(1, 2).probes, probes + 2, "no later than a tenth of a second after the last");
    assert!(world.node(1).moves > moved, "from an address that the system chooses");
    world.run(SECOND * 10);
    assert_eq!(world.peer(1, 2).probes, probes + 2, "and no more often than it takes");
    let moved = world.node(1).moves;
    world.tell(1, Input::HostChanged { sources: sources(8) });
    assert_eq!(world.node(1).moves, moved, "the same addresses as before");
}
