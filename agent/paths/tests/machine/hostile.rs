//! A peer that does what it can.

use mesh_core::path::PathKind;
use mesh_paths::path::{SMALL, packet};

use crate::{
    device::Message,
    world::{MS, SECOND, World, mesh_address, token, udp},
};

#[test]
fn a_flood_of_probes_from_one_peer_leaves_the_others_their_paths() {
    let mut world = World::new(3);
    world.set_endpoint(1, 2);
    world.set_endpoint(2, 1);
    world.until("the paths", |world| {
        world.is_usable(1, 2, PathKind::Gateway) && world.is_usable(1, 2, PathKind::Direct)
    });
    world.talk(1, 2);
    world.until("packets that go directly", |world| world.uses(1, 2, PathKind::Direct));
    world.run(SECOND);
    // As itself, as the friend, and to no one; by the other path than they say; and what is no packet at all.
    let packets = [
        packet::build(mesh_address(3), mesh_address(1), &[b"mshp".as_slice(), &[1, 1, 2], &[0; SMALL]].concat()),
        packet::build(mesh_address(3), mesh_address(1), &[b"mshc".as_slice(), &[1, 1, 0, 0], &[0; 8]].concat()),
        packet::build(mesh_address(2), mesh_address(1), &[b"mshp".as_slice(), &[1, 1, 1], &[0; SMALL]].concat()),
        packet::build(mesh_address(3), mesh_address(2), &[0; SMALL]),
        vec![0xff; 1400],
        Vec::new(),
    ];
    let switches = |world: &World| world.nodes[&1].switches.iter().filter(|(of, _)| *of == token(2)).count();
    let (begun, before) = (world.now, switches(&world));
    let answered = world.peer(3, 1).probes;
    while world.now < begun + SECOND * 10 {
        for packet in &packets {
            for _ in 0..10 {
                world.send_udp(3, udp(1), Message::Probe(packet.clone()));
            }
        }
        world.run(MS * 10);
        assert!(world.uses(1, 2, PathKind::Direct), "at {:?}", world.now - begun);
    }
    let path = world.path(1, 2, PathKind::Direct).unwrap();
    assert!(path.usable && path.proved.is_some_and(|age| age < SECOND * 2), "{path:?}");
    assert!(world.is_usable(1, 2, PathKind::Gateway));
    assert_eq!(switches(&world), before, "{:?}", world.nodes[&1].switches);
    assert!(world.peer(3, 1).probes - answered < 1000, "nor is it answered for each");
}
