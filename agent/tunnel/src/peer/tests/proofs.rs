//! What proves that a peer is at its endpoint, or at the end of a stream, and what does not.

use super::endpoint::Elsewhere;
use super::paths::{Wagon, carrier, carry, two_ends_of_a_stream, two_ends_that_met};
use super::*;
use crate::path::StreamOrigin;
use crate::stream_source::StreamSource;

/// A peer that says where it is may name another host, and write that address into its datagrams.
#[test]
fn an_endpoint_that_never_answers_gets_initiations_and_probes_only() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_of_a_stream(start);
    let victim = Elsewhere::new();
    a.peer.set_endpoint(victim.address(), start);
    a.peer.set_route(Route::default());
    a.send(start, 1);
    assert_eq!(victim.kinds(), [1]);
    assert_eq!(carry(start, &a, &b, &forth, &back), (vec![], vec![1]));
    for word in 2..=4 {
        a.send(start, word);
    }
    assert_eq!(carry(start, &a, &b, &forth, &back), (vec![], vec![2, 3, 4]));
    assert!(victim.kinds().is_empty(), "the stream has them");
    assert!(a.inner(start, Path::Udp, 5));
    assert_eq!(victim.kinds(), [4], "what asks for UDP gets it");

    let later = start + 121 * S;
    a.send(later, 6);
    assert_eq!(victim.kinds(), [1], "the session is renewed by each path");
    assert_eq!(carry(later, &a, &b, &forth, &back), (vec![], vec![6]));
    assert!(victim.kinds().is_empty());

    let seems_to_come = |now: Instant, word: u8| {
        assert!(b.inner(now, Path::Udp, word));
        assert_eq!(a.take(now, &a.datagram(), victim.address()), Some(word));
        a.send(now, word);
        assert_eq!(carry(now, &a, &b, &forth, &back), (vec![], vec![word]));
    };
    seems_to_come(later, 7);
    assert_eq!(victim.kinds(), [1], "asked, and no more");
    for after in [250, 750, 1250, 2000] {
        a.tick(later + Duration::from_millis(after));
    }
    assert_eq!(victim.kinds(), [1; 3]);
    for after in [2000, 2001, 2999] {
        seems_to_come(later + Duration::from_millis(after), 8);
    }
    assert_eq!(victim.kinds(), [1], "one a second while data seems to come from there");
}

#[test]
fn an_endpoint_that_answers_gets_packets_beside_the_stream() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_that_met(start);
    for end in [&a, &b] {
        end.peer.set_route(Route::default());
    }
    a.send(start, 1);
    assert_eq!(carry(start, &a, &b, &forth, &back), (vec![], vec![1]));
    assert!(!b.has_datagram());

    // Something comes from there, which is asked.
    assert!(b.inner(start, Path::Udp, 2));
    assert_eq!(a.take_next(start, 1, &b), [2]);
    assert_eq!(b.take_next(start, 1, &a), [0; 0]);
    a.take_next(start, 1, &b);
    b.take_next(start, 1, &a);
    assert_eq!(forth.kinds(), [4], "by the route, what shows that the answer came");
    a.send(start, 3);
    assert_eq!((b.take_next(start, 1, &a), forth.kinds()), (vec![3], vec![4]));
    b.send(start, 4);
    assert_eq!((a.take_next(start, 1, &b), back.kinds()), (vec![4], vec![4]));

    // What was proved of one place says nothing of another.
    let other = Elsewhere::new();
    b.peer.set_endpoint(other.address(), start);
    b.send(start, 5);
    assert_eq!((other.kinds(), a.has_datagram(), back.kinds()), (vec![], false, vec![4]));
}

/// The answer to an initiation that went by two paths would prove neither.
#[test]
fn each_path_has_initiations_of_its_own() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_of_a_stream(start);
    a.peer.set_route(Route::default());
    a.initiate(start);
    let (udp_paths, by_stream) = (b.datagram(), forth.unload());
    assert_eq!((udp_paths[0], by_stream.len(), by_stream[0][0]), (1, 1, 1));
    b.take(start, &udp_paths, a.address());
    b.take_by(start, &by_stream, &back);
    let answers = back.unload();
    assert_eq!(answers.len(), 1, "each is answered by its path");
    // An attacker brings the answer of the stream by UDP.
    a.take(start, &answers[0], b.address());
    assert!(a.handshake().is_some() && !a.peer.lock().is_validated);
    a.take_next(start, 1, &b);
    assert!(a.peer.lock().is_validated);
}

/// Messages that were caught elsewhere can be brought to any stream.
#[test]
fn the_answer_to_what_went_by_a_stream_alone_proves_a_round_trip() {
    let start = Instant::now();
    let (a, b, _, back) = two_ends_of_a_stream(start);
    let (asked, other) = (Wagon::new(), Wagon::new());
    let initiate = || {
        a.with(start, |peer, context| peer.initiate_by(context, &carrier(&asked)));
        asked.unload().pop().unwrap()
    };
    let answer_to = |initiation: Vec<u8>| {
        b.take_by(start, &[initiation], &back);
        back.unload().pop().unwrap()
    };
    let proved = |answer: &[u8], by: &Arc<Wagon>| {
        let Some(Message::Response { receiver }) = classify(answer) else { panic!("no answer") };
        let carrier = carrier(by);
        let via = Via::Stream { carrier: &carrier, source: StreamSource::new(1, StreamOrigin::Accepted).get() };
        a.with(start, |peer, context| peer.receive_response(context, receiver, answer, via))
    };
    let answer = answer_to(initiate());
    assert_eq!(proved(&answer, &asked), Some(Proof::RoundTrip));
    assert_eq!(proved(&answer, &asked), None, "a replay");
    assert_eq!(proved(&answer_to(initiate()), &other), Some(Proof::Data), "it went by another stream");
    a.try_endpoint(start, b.address());
    assert_eq!(proved(&answer_to(b.datagram()), &asked), Some(Proof::Data), "it went by UDP");
}
