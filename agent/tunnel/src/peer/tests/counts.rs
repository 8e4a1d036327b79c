//! What a peer counts.

use super::*;
use crate::noise::INITIATION_LEN;

/// Bytes that were received, and sent.
fn bytes(end: &End) -> (usize, usize) {
    let view = end.peer.view(Instant::now());
    (view.rx_bytes as usize, view.tx_bytes as usize)
}

#[test]
fn authentic_bytes_count_both_ways_and_what_did_not_leave_does_not() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let asked = INITIATION_LEN + OVERHEAD;
    assert_eq!((bytes(&a), bytes(&b)), ((RESPONSE_LEN, asked), (asked, RESPONSE_LEN)));
    a.send(start, 1);
    let mut datagram = b.datagram();
    let (asked, len) = (asked + datagram.len(), datagram.len());
    assert_eq!((bytes(&a).1, len), (asked, 32 + OVERHEAD));
    b.take(start, &datagram, a.address());
    b.take(start, &datagram, a.address());
    datagram[30] ^= 1;
    b.take(start, &datagram, a.address());
    assert_eq!(bytes(&b), (asked, RESPONSE_LEN), "once");

    // Nothing can be sent to that port.
    a.peer.set_endpoint(([127, 0, 0, 1], 0).into(), start);
    a.send(start, 2);
    assert_eq!((bytes(&a), a.counters.read().io_failed), ((RESPONSE_LEN, asked), 1));
}
