//! Two nodes that know no address of each other, behind NATs that let in only what they have sent to.

use std::net::SocketAddr;

use mesh_core::path::PathKind;
use mesh_paths::{Input, Sources};

use crate::world::{SECOND, World, udp};

#[test]
fn two_that_meet_at_the_gateway_find_the_direct_path() {
    let mut world = World::with(2, SECOND * 3600, |world| world.is_restricting = true);
    let took = world.until("direct UDP", |world| {
        world.is_usable(1, 2, PathKind::Direct) && world.is_usable(2, 1, PathKind::Direct)
    });
    assert!(took < SECOND * 5, "{took:?}");
    for (n, peer) in [(1, 2), (2, 1)] {
        assert_eq!(world.paths(n, peer).unwrap().direct, Some(udp(peer)));
        let tries = world.peer(n, peer).tries.clone();
        assert!(tries.iter().all(|tried| *tried == udp(peer)), "{tries:?}");
    }
    // When this host changes, paths that are idle are asked at once.
    world.run(SECOND * 60);
    world.until("a moment of rest", |world| {
        let before = world.peer(1, 2).probes;
        world.run(SECOND);
        world.peer(1, 2).probes == before
    });
    let before = world.peer(1, 2).probes;
    world.tell(1, Input::HostChanged { sources: Sources::default() });
    assert!(world.peer(1, 2).probes > before);
    // What can be had is used, and stays in use.
    world.talk(1, 2);
    world.talk(2, 1);
    world.until("packets that go directly", |world| world.both_use(1, 2, PathKind::Direct));
    world.tell(2, Input::HostChanged { sources: Sources::default() });
    world.run(SECOND * 10);
    assert!(world.both_use(1, 2, PathKind::Direct));
}

/// Where there is no STUN server that answers, an address of this host may do.
#[test]
fn an_address_of_the_host_is_passed_on_as_it_changes() {
    let mut world = World::new(2);
    let own: SocketAddr = "198.51.100.7:51821".parse().unwrap();
    world.until("the gateway path", |world| world.is_usable(1, 2, PathKind::Gateway));
    world.is_udp_cut = true;
    world.tell(1, Input::LocalAddresses { addresses: vec![own], sources: Sources::default() });
    world.until("attempts at it", |world| world.peer(2, 1).tries.contains(&own));
}
