//! What is sent between the loss of a stream and the next path.

use super::paths::{Wagon, carrier, prove_endpoint, two_ends_that_met};
use super::*;

/// Two ends with a session, whose streams are gone.
fn cut_off(start: Instant) -> (End, End, Arc<Wagon>, Arc<Wagon>) {
    let (a, b, forth, back) = two_ends_that_met(start);
    for end in [&a, &b] {
        assert!(!end.peer.set_stream(None, start));
    }
    (a, b, forth, back)
}

/// The words that come by the next stream.
fn by_the_next(now: Instant, a: &End, b: &End, back: &Arc<Wagon>) -> Vec<u8> {
    let next = Wagon::new();
    assert!(a.peer.set_stream(Some(carrier(&next)), now), "it is to be spoken to");
    a.initiate(now);
    b.take_by(now, &next.unload(), back)
}

#[test]
fn waits_for_the_next_stream_in_its_order() {
    let start = Instant::now();
    let (a, b, forth, back) = cut_off(start);
    for word in 1..=3 {
        a.send(start + S * u32::from(word), word);
    }
    assert!(forth.unload().is_empty() && !b.has_datagram());
    assert_eq!(by_the_next(start + 4 * S, &a, &b, &back), [1, 2, 3]);
    assert_eq!(a.counters.read().unsendable, 0);

    let other = Wagon::new();
    assert!(!a.peer.set_stream(Some(carrier(&other)), start + 5 * S));
    a.initiate(start + 5 * S);
    assert!(other.unload().is_empty(), "each is sent once");
}

#[test]
fn the_newest_wait() {
    let start = Instant::now();
    let (a, b, _, back) = cut_off(start);
    for number in 0..1100_u16 {
        a.send(start, number.to_be_bytes()[1]);
    }
    assert_eq!(a.counters.read().unsendable, 76);
    let newest = (76..1100_u16).map(|number| number.to_be_bytes()[1]);
    assert_eq!(by_the_next(start, &a, &b, &back), newest.collect::<Vec<u8>>());
}

#[test]
fn nothing_waits_for_long() {
    let start = Instant::now();
    let (a, b, _, back) = cut_off(start);
    a.send(start + 9 * S, 1);
    let wake = |request| if let Request::Wake(Wake { at, .. }) = request { Some(at) } else { None };
    let due = std::iter::from_fn(|| a.requests.try_recv().ok()).filter_map(wake);
    let mut next = due.min();
    while let Some(at) = next.filter(|at| *at < start + 10 * S) {
        next = a.tick(at);
    }
    assert_eq!(next, Some(start + 10 * S));
    a.tick(start + 10 * S);
    assert!(a.peer.lock().staged.is_empty());
    a.send(start + 10 * S, 2);
    assert_eq!(a.counters.read().unsendable, 1);
    assert_eq!(by_the_next(start + 11 * S, &a, &b, &back), [0; 0]);
}

/// Its owner said where the peer may be, and no answer came from there.
#[test]
fn what_goes_to_a_doubtful_endpoint_waits_as_well() {
    let start = Instant::now();
    let (a, b, _, back) = two_ends_that_met(start);
    a.peer.set_route(Route::default());
    a.peer.set_stream(None, start);
    a.send(start, 1);
    let lost = b.datagram();
    assert_eq!(by_the_next(start, &a, &b, &back), [1]);
    assert_eq!(b.take(start, &lost, a.address()), Some(1), "it was lost");

    // An answer comes: they have arrived.
    a.peer.set_stream(None, start);
    a.send(start, 2);
    assert_eq!(b.take_next(start, 1, &a), [2]);
    prove_endpoint(start, &a, &b);
    a.peer.set_stream(Some(carrier(&Wagon::new())), start);
    a.initiate(start);
    assert!(!b.has_datagram());
}

#[test]
fn a_removed_peer_keeps_nothing() {
    let start = Instant::now();
    let (a, ..) = cut_off(start);
    a.send(start, 1);
    a.peer.remove();
    assert!(a.peer.lock().staged.is_empty());
    a.send(start, 2);
    assert!(a.peer.lock().staged.is_empty());
    assert_eq!(a.counters.read().unsendable, 1);
}
