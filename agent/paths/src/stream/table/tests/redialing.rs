//! Which side dials, when, and how often.

use super::*;

#[test]
fn exactly_one_side_calls_if_anyone_can() {
    for (a, b) in [(1, 2), (2, 1), (7, 254)].map(|(a, b)| (token(a), token(b))) {
        for (a_reached, b_reached) in [(true, true), (true, false), (false, true)] {
            assert!(dials(a, a_reached, b, b_reached) != dials(b, b_reached, a, a_reached));
        }
        assert!(!dials(a, false, b, false) && !dials(b, false, a, false));
    }
    assert!(dials(token(1), true, token(2), true), "the lower one");
}

#[test]
fn a_peer_that_is_gone_is_called_less_and_less_but_always_again() {
    let mut lab = Lab::with_peers(7, 1, 1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let call = lab.dial(20 * SECOND);
        lab.failed(call, true);
        let before = lab.now;
        lab.dial(20 * SECOND);
        waits.push(lab.now - before);
    }
    assert!(waits[0] <= FIRST_WAIT + Duration::from_millis(1), "{waits:?}");
    assert!(waits[6..].iter().all(|wait| (LONGEST_WAIT / 2..=LONGEST_WAIT + SECOND).contains(wait)), "{waits:?}");
    // A change of the network is a reason to think again.
    let call = lab.dial(SECOND);
    lab.failed(call, true);
    lab.table.retry(lab.now);
    lab.dial(JITTER + Duration::from_millis(1));
}

#[test]
fn a_peer_that_does_not_answer_on_its_stream_is_greeted_again_for_a_while() {
    let (peer, mut lab) = (token(1), Lab::with_peers(5, 1, 1));
    let stream = lab.dial(SECOND);
    lab.opened(stream);
    lab.log();
    let greet = Action::Initiate { peer, stream };
    lab.wait(INITIATE_AGAIN);
    assert_eq!(lab.log(), std::slice::from_ref(&greet));
    lab.wait(5 * SECOND);
    let initiations = lab.log();
    assert!(
        (9..=11).contains(&initiations.len()) && initiations.iter().all(|action| *action == greet),
        "{initiations:?}"
    );
    lab.wait(INITIATE_FOR);
    assert!(!lab.log().is_empty());
    lab.wait(AGE / 2);
    assert!(lab.log().is_empty(), "it goes on for ever");
    // Who has answered is not greeted any more, nor on a stream that is gone.
    lab.ended(stream);
    let next = lab.connect(peer);
    lab.log();
    lab.wait(5 * SECOND);
    assert!(lab.log().is_empty());
    lab.ended(next);
    let last = lab.dial(SECOND);
    lab.opened(last);
    lab.ended(last);
    lab.log();
    lab.wait(INITIATE_AGAIN);
    assert!(lab.log().iter().all(|action| !matches!(action, Action::Initiate { .. })));
}

#[test]
fn a_stream_that_breaks_again_and_again_is_not_made_again_and_again() {
    let (peer, mut lab) = (token(1), Lab::with_peers(8, 1, 1));
    for _ in 0..10 {
        let stream = lab.connect(peer);
        lab.ended(stream);
    }
    let before = lab.now;
    let stream = lab.connect(peer);
    assert!(lab.now - before >= LONGEST_WAIT / 2);
    lab.wait(LASTED);
    lab.ended(stream);
    lab.dial(JITTER + Duration::from_millis(1));
}

#[test]
fn a_gateway_that_is_away_gets_one_call_at_a_time_and_a_spread_out_crowd_when_it_is_back() {
    let mut lab = Lab::with_peers(9, 250, 250);
    lab.wait(SECOND);
    // Both gateways.
    assert_eq!(lab.dialing.len(), 32, "16 at once for each");
    let mut calls = 0;
    while lab.now < 60 * SECOND {
        for stream in lab.dialing.keys().copied().collect::<Vec<_>>() {
            lab.failed(stream, false);
            calls += 1;
        }
        lab.wait(Duration::from_millis(20));
        assert!(lab.now < 2 * SECOND || lab.dialing.len() <= 2, "{}", lab.dialing.len());
    }
    assert!((100..300).contains(&calls), "{calls} calls in a minute to two gateways");
    while lab.dialing.len() < 2 {
        lab.wait(Duration::from_millis(10));
    }
    let (back, begun) = (*lab.dialing.first_key_value().unwrap().0, lab.now);
    lab.opened(back);
    assert!(lab.dialing.len() <= 2, "not all in the same moment");
    while lab.routes.len() < 125 {
        lab.wait(Duration::from_millis(5));
        let of_gateway = |lab: &Lab, stream: &StreamId| {
            lab.dialing[stream].get() % 2 == lab.routes.first_key_value().unwrap().0.get() % 2
        };
        let answered: Vec<StreamId> = lab.dialing.keys().copied().filter(|stream| of_gateway(&lab, stream)).collect();
        assert!(answered.len() <= 16);
        for stream in answered {
            lab.opened(stream);
        }
    }
    assert!(lab.now - begun <= SECOND, "{:?}", lab.now - begun);
}
