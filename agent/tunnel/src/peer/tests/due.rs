//! When a peer is looked at, and how many are spoken to at a time.

use super::*;

/// A session that is not used is looked at when its time is over, and not before.
#[test]
fn an_idle_session_is_left_alone() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let mut looked = Vec::new();
    let mut next = None;
    loop {
        while let Ok(Request::Wake(Wake { at, .. })) = a.requests.try_recv() {
            next = Some(next.map_or(at, |next: Instant| next.min(at)));
        }
        let Some(at) = next.take() else { break };
        looked.push((at - start).as_secs());
        next = a.tick(at);
    }
    assert!(looked.len() <= 3 && looked.last() == Some(&180), "{looked:?}");
    assert!(!a.peer.lock().sessions.in_use());
}

/// The device need not look at a peer for its packets to ask for what they need in time.
#[test]
fn data_sets_the_timers_that_it_needs() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let wakes = |end: &End| -> Vec<u64> {
        let seconds = |request| match request {
            Request::Wake(Wake { at, .. }) => (at - start).as_secs(),
            Request::Apply { .. } | Request::Initiate { .. } | Request::Fit | Request::Resumed | Request::Stop => {
                panic!("that was not asked for")
            }
        };
        end.requests.try_iter().map(seconds).collect()
    };
    for end in [&a, &b] {
        wakes(end);
        end.peer.lock().scheduled = None;
    }
    let later = start + 20 * S;
    a.send(later, 1);
    a.send(later + S, 2);
    assert_eq!(b.take_next(later, 2, &a), [1, 2]);
    assert_eq!(wakes(&a), [35], "silence is noticed after 15 s");
    assert_eq!(wakes(&b), [30], "a keepalive says after 10 s that it came");
}

#[test]
fn an_answer_to_a_handshake_says_that_data_came() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    a.send(start, 1);
    assert_eq!(b.take_next(start, 1, &a), [1]);
    assert_eq!(b.peer.lock().timers.next(true), Some(start + 10 * S), "a keepalive");
    ask(&a, start);
    b.take_next(start, 1, &a);
    assert_eq!(b.peer.lock().timers.next(true), None);
}

/// An attacker on the path holds back the first message in a session until there is a later session.
#[test]
fn a_session_that_comes_too_late_sets_no_timer() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    b.initiate(start);
    a.take_next(start, 1, &b);
    b.take_next(start, 1, &a);
    let held_back = a.datagram();
    let later = start + 100 * S;
    ask(&a, later);
    b.take_next(later, 1, &a);
    a.take_next(later, 1, &b);
    b.take_next(later, 1, &a);
    let before = (a.handshake(), a.unauthenticated());
    a.take(later, &held_back, b.address());
    assert_eq!((a.handshake(), a.unauthenticated()), before, "it is authentic, and no news");
    for seconds in [121, 181] {
        let now = start + seconds * S;
        a.send(now, 1);
        assert_eq!(b.take_next(now, 1, &a), [1], "only the packet, {seconds} s after the old session");
    }
    a.send(later + 120 * S, 2);
    assert_eq!((b.datagram()[0], b.datagram()[0]), (1, 4), "the renewal has its own time");
}

/// While thousands are spoken to, a handshake that no packet waits for has to wait itself, and three tries when it may begin.
#[test]
fn in_a_crowd_a_handshake_that_no_packet_waits_for_stops() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let mut others = all_turns(&a);
    assert_eq!(a.initiate(start), InitiateOutcome::Deferred);
    a.peer.set_keepalive(25, start);
    a.peer.lock().scheduled = Some(start);
    let next = a.tick(start);
    assert_eq!(next, Some(start + 25 * S), "the next keepalive");
    assert!(!b.has_datagram());

    others.pop();
    assert_eq!(a.initiate(start), InitiateOutcome::Done);
    assert!(a.limiter.try_acquire().is_none(), "and the others have to wait");
    let mut seen = vec![0];
    b.datagram();
    while a.peer.lock().timers.is_handshaking() {
        let at = a.peer.lock().scheduled.unwrap();
        a.tick(at);
        seen.push((at - start).as_millis());
        assert_eq!(b.has_datagram(), a.peer.lock().timers.is_handshaking());
    }
    assert_eq!(seen, [0, 250, 750, 1750], "three tries, and the end");
    let mut last = start;
    while a.peer.lock().sessions.in_use() {
        last = a.peer.lock().scheduled.unwrap();
        a.tick(last);
    }
    assert_eq!(last, start + Duration::from_millis(5750), "it leaves nothing behind");
    others.push(a.limiter.try_acquire().expect("the turn that it had"));
    assert!(a.limiter.try_acquire().is_none());

    // A packet waits for no turn, and its handshake is no shorter.
    a.send(start + 10 * S, 1);
    assert!(b.has_datagram());
    a.peer.lock().scheduled = Some(start + 13 * S);
    a.tick(start + 13 * S);
    assert!(b.has_datagram());
}

/// What the device's owner sends by itself takes no permit from others.
#[test]
fn in_a_crowd_what_the_owner_sends_begins_no_handshake() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let mut others = all_turns(&a);
    let sends = || a.inner(start, Path::Udp, 1);
    assert!(!sends() && !b.has_datagram());
    assert!(!a.peer.lock().timers.is_handshaking());
    others.pop();
    assert!(!sends());
    assert_eq!(b.datagram()[0], 1, "now it is its turn");
    assert!(a.limiter.try_acquire().is_none());
}

#[test]
fn an_answer_from_far_away_counts_when_the_turn_is_over() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let mut others = all_turns(&a);
    others.pop();
    a.initiate(start);
    assert!(a.limiter.try_acquire().is_none(), "another peer waits");
    let initiation = b.datagram();
    while a.peer.lock().timers.is_handshaking() {
        let at = a.peer.lock().scheduled.unwrap();
        a.tick(at);
    }
    while b.has_datagram() {}
    b.take(start + 2 * S, &initiation, a.address());
    a.take_next(start + 4 * S, 1, &b);
    // Later initiations were not answered. Another goes without waiting for a turn, and there is time for its answer.
    let before = a.peer.lock().scheduled.unwrap();
    let at = a.tick(before).unwrap();
    a.tick(at);
    b.take_next(at + 2 * S, 1, &a);
    let next = a.peer.lock().scheduled.unwrap();
    assert!(next > at + 4 * S, "{:?}", next - at);
    a.take_next(at + 4 * S, 1, &b);
    assert!(a.handshake().is_some());
}

#[test]
fn where_no_peer_wants_its_permit_a_handshake_goes_on() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let mut others = all_turns(&a);
    others.pop();
    a.initiate(start);
    let mut at = start;
    while a.peer.lock().timers.is_handshaking() {
        at = a.peer.lock().scheduled.unwrap();
        a.tick(at);
        b.has_datagram();
    }
    assert_eq!(at, start + 90 * S);
}

#[test]
fn a_turn_ends_with_its_handshake() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let mut others = all_turns(&a);
    others.pop();
    a.initiate(start);
    assert!(a.limiter.try_acquire().is_none());
    b.take_next(start, 1, &a);
    a.take_next(start, 1, &b);
    assert!(a.limiter.try_acquire().is_some(), "there is a session");
    a.peer.end_sessions();
    a.initiate(start);
    assert!(a.limiter.try_acquire().is_none());
    a.peer.remove();
    assert!(a.limiter.try_acquire().is_some());
}

fn all_turns(end: &End) -> Vec<HandshakePermit> {
    std::iter::from_fn(|| end.limiter.try_acquire()).collect()
}
