//! Paths that fail and come back under packets that go on.

use mesh_core::path::PathKind;
use mesh_tunnel::Path;

use crate::world::{MS, SECOND, World, token};

#[test]
fn packets_take_the_gateway_while_direct_udp_is_dead_and_return_when_it_is_not() {
    let mut world = World::new(2);
    world.set_endpoint(1, 2);
    world.set_endpoint(2, 1);
    world.until("both paths both ways", |world| {
        [PathKind::Direct, PathKind::Gateway]
            .into_iter()
            .all(|kind| world.is_usable(1, 2, kind) && world.is_usable(2, 1, kind))
    });
    world.talk(1, 2);
    world.talk(2, 1);
    world.until("packets that go directly", |world| world.both_use(1, 2, PathKind::Direct));
    world.run(SECOND * 5);

    world.is_udp_cut = true;
    let heard = world.peer(2, 1).received.len();
    let took = world.until("packets by the gateway", |world| {
        world.peer(2, 1).received[heard..].iter().any(|(_, path)| *path == Path::Stream)
    });
    assert!(took <= MS * 1500, "{took:?}");
    let took = world.until("the gateway in use", |world| world.both_use(1, 2, PathKind::Gateway));
    assert!(took <= SECOND * 6, "{took:?}");

    world.run(SECOND * 20);
    world.is_udp_cut = false;
    let took = world.until("direct UDP in use again", |world| world.both_use(1, 2, PathKind::Direct));
    assert!(took <= SECOND * 30, "{took:?}");
    for (n, peer) in [(1, 2), (2, 1)] {
        let switches = &world.nodes[&n].switches;
        let [(of, there), (_, back)] = switches[..] else { panic!("there and back: {switches:?}") };
        assert_eq!((of, there.to, back.to), (token(peer), PathKind::Gateway, PathKind::Direct));
        assert!(there.trouble.is_some() && back.trouble.is_none(), "{switches:?}");
    }
}
