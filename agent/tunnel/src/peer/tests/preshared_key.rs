//! A preshared key that changes, on one side or on both.

use super::*;

#[test]
fn a_changed_preshared_key_takes_over_with_its_handshake() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let psk = PresharedKey::from_bytes(Zeroizing::new([9; 32]));
    a.peer.set_psk(&psk);
    a.send(start, 1);
    assert_eq!(b.take_next(start, 1, &a), [1], "the session goes on");

    // a renews with the new key; b, with the old, gives an answer that a refuses.
    let later = start + 121 * S;
    a.send(later, 2);
    assert_eq!(b.take_next(later, 2, &a), [2]);
    let refused = a.unauthenticated();
    a.take_next(later, 1, &b);
    assert_eq!(a.unauthenticated(), refused + 1);
    b.send(later, 3);
    assert_eq!(a.take_next(later, 1, &b), [3], "and the session still goes on");

    // b has it too: the next try succeeds, and what was under way under the old session still arrives.
    b.peer.set_psk(&psk);
    b.send(later, 4);
    a.peer.lock().timers.restart_handshake(later);
    a.initiate(later);
    assert_eq!(b.take_next(later, 1, &a), [0; 0]);
    assert_eq!(a.take_next(later, 2, &b), [4]);
    a.send(later, 5);
    assert_eq!(b.take_next(later, 2, &a), [5]);
    b.send(later, 6);
    assert_eq!(a.take_next(later, 1, &b), [6]);
}

#[test]
fn the_session_survives_two_changes_before_a_handshake() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    for change in [8, 9] {
        a.peer.set_psk(&PresharedKey::from_bytes(Zeroizing::new([change; 32])));
        // A handshake with the new key comes to nothing.
        a.peer.lock().timers.restart_handshake(start);
        a.initiate(start);
        b.take_next(start, 1, &a);
        a.take_next(start, 1, &b);
        b.send(start, change);
        a.send(start, change);
        assert_eq!((a.take_next(start, 1, &b), b.take_next(start, 1, &a)), (vec![change], vec![change]));
    }
}

/// More of them than sessions are held: those that were never proved to be held must not push out the one in use.
#[test]
fn handshakes_that_fail_do_not_cost_the_session() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let psk = PresharedKey::from_bytes(Zeroizing::new([9; 32]));
    a.peer.set_psk(&psk);
    for word in 1..=20 {
        ask(&a, start);
        b.take_next(start, 1, &a);
        let refused = a.unauthenticated();
        a.take_next(start, 1, &b);
        assert_eq!(a.unauthenticated(), refused + 1, "the answer to a handshake with another key");
        b.send(start, word);
        a.send(start, word);
        let arrived = (a.take_next(start, 1, &b), b.take_next(start, 1, &a));
        assert_eq!(arrived, (vec![word], vec![word]), "handshake {word}");
    }
    b.peer.set_psk(&psk);
    ask(&a, start);
    b.take_next(start, 1, &a);
    a.take_next(start, 1, &b);
    a.send(start, 21);
    assert_eq!(b.take_next(start, 2, &a), [21], "the confirmation and the packet");
}

#[test]
fn a_handshake_under_way_does_not_outlive_its_preshared_key() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    a.initiate(start);
    b.take_next(start, 1, &a);
    a.peer.set_psk(&PresharedKey::from_bytes(Zeroizing::new([9; 32])));
    a.take_next(start, 1, &b);
    assert_eq!((a.unauthenticated(), a.handshake()), (1, None));
    // It goes on with the new one, once the peer has it too.
    b.peer.set_psk(&PresharedKey::from_bytes(Zeroizing::new([9; 32])));
    ask(&a, start);
    b.take_next(start, 1, &a);
    a.take_next(start, 1, &b);
    assert!(a.handshake().is_some());
}
