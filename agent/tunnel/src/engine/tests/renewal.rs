//! A session is renewed in a flood whose datagrams have the peer's own address as their source, forged.

use super::*;
use crate::noise::sign;

/// A session that is nearly due for renewal, and an initiation for its initiator with a right first MAC, garbled behind it.
fn due() -> (World, Vec<u8>) {
    let mut world = World::introduced(1);
    let mut garbled = world.under_way.first().expect("an initiation").4.clone();
    garbled[40] ^= 1;
    sign(&mut garbled, &private(0).public_key(), None);
    for _ in 0..118 {
        world.send(0, 1);
        world.run(S);
    }
    assert_eq!(world.delivered(1).len(), 118);
    (world, garbled)
}

/// Thirty such messages in each millisecond, at the first node.
fn flood(world: &mut World, message: &[u8], time: Duration) {
    for _ in 0..time.as_millis() {
        for _ in 0..30 {
            world.nodes[0].engine.handle_datagram(address(1), message, world.now);
            while let Some(sent) = world.nodes[0].engine.poll_transmit() {
                assert_eq!(sent.bytes[0], 3, "a cookie, which helps no one");
            }
        }
        world.run(Duration::from_millis(1));
    }
}

#[test]
fn the_response_to_an_initiation_of_ours_is_not_charged() {
    let (mut world, garbled) = due();
    flood(&mut world, &garbled, S / 5);
    world.run(2 * S);
    flood(&mut world, &garbled, S / 5);
    assert!(world.nodes[0].engine.drops().under_load > 1000);
    let since = world.history.len();
    world.send(0, 2);
    flood(&mut world, &garbled, 3 * LATENCY);
    assert_eq!([world.count(since, 0, "kind 1,"), world.count(since, 1, "kind 2,")], [1, 1]);
    let renewed = world.nodes[0].engine.peers(world.now)[0].last_handshake.unwrap();
    assert!(renewed > SystemTime::UNIX_EPOCH + 1_800_000_119 * S, "at once, with its first response");
}
