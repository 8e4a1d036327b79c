//! Streams on which no peer is proved.

use super::*;

#[test]
fn a_crowd_without_peers_pushes_out_its_oldest() {
    let mut lab = Lab::with_peers(6, 0, 1);
    let crowd: Vec<StreamId> = (0..UNPROVED + 10).map(|_| lab.accepted()).collect();
    assert_eq!(lab.open.iter().copied().collect::<Vec<_>>(), crowd[10..]);
    lab.proved(crowd[20], token(1));
    assert_eq!(lab.routes[&token(1)], crowd[20]);
}

#[test]
fn neither_silence_nor_hellos_keep_the_others_out() {
    // A stream with a hello stays while others come that say nothing.
    let mut lab = Lab::with_peers(13, 0, 1);
    let peers = lab.accepted();
    lab.table.hello_received(peers);
    for _ in 0..10 * UNPROVED {
        lab.accepted();
    }
    assert!(lab.open.contains(&peers));
    lab.answered(peers, token(1));
    // A crowd that says hello cannot hold its places, and a stream that comes among it has time to say hello.
    let crowd: Vec<StreamId> = (0..UNPROVED).map(|_| lab.accepted()).collect();
    crowd.iter().for_each(|stream| lab.table.hello_received(*stream));
    let slow = lab.accepted();
    for _ in 0..UNPROVED / 4 {
        let other = lab.accepted();
        lab.table.hello_received(other);
    }
    assert!(lab.open.contains(&slow), "no hello yet, and few of its kind");
    let left = crowd.iter().filter(|stream| lab.open.contains(stream)).count();
    assert!(left < UNPROVED);
    assert!(crowd[..UNPROVED - left].iter().any(|stream| lab.open.contains(stream)), "not the oldest alone");
}
