//! Where a peer is: where its last authentic message came from, unless that may have been a replay.

use super::*;

#[test]
fn an_initiation_alone_moves_no_endpoint() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let attacker = socket.local_addr().unwrap();
    a.greet(start);
    let initiation = b.datagram();
    // Somebody on the way passes it on from an address of his own, and gets the answer.
    b.take(start, &initiation, attacker);
    assert_eq!(b.endpoint(), a.address());
    socket.set_read_timeout(Some(5 * S)).unwrap();
    assert_eq!((socket.recv(&mut [0; 2048]).unwrap(), a.has_datagram()), (RESPONSE_LEN, false));
    // The same again, from anywhere, is a replay.
    for from in [a.address(), attacker] {
        let before = b.unauthenticated();
        b.take(start, &initiation, from);
        assert_eq!(b.unauthenticated(), before + 1);
    }
    // It still is one after a change of the preshared key, and where the device's key changes and changes back.
    let changes: [fn(&Peer); 2] =
        [|peer| peer.set_psk(&PresharedKey::from_bytes(Zeroizing::new([9; 32]))), Peer::end_sessions];
    for change in changes {
        change(&b.peer);
        let before = b.unauthenticated();
        b.take(start, &initiation, attacker);
        assert_eq!((b.unauthenticated(), b.endpoint()), (before + 1, a.address()));
    }
    assert!(b.handshake().is_none(), "nobody has proved anything");
}

#[test]
fn authentic_data_moves_the_endpoint() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    a.send(start, 1);
    let moved: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let mut datagram = b.datagram();
    datagram[40] ^= 1;
    b.take(start, &datagram, moved);
    assert_eq!(b.endpoint(), a.address(), "one bit was changed");
    datagram[40] ^= 1;
    assert_eq!(b.take(start, &datagram, moved), Some(1));
    assert_eq!(b.endpoint(), moved);
    let refused = b.unauthenticated();
    b.take(start, &datagram, a.address());
    assert_eq!((b.endpoint(), b.unauthenticated()), (moved, refused + 1), "a replay");
}

#[test]
fn an_authentic_answer_moves_the_endpoint() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let moved: SocketAddr = "127.0.0.1:9".parse().unwrap();
    a.greet(start);
    b.take_next(start, 1, &a);
    let mut answer = a.datagram();
    answer[20] ^= 1;
    a.take(start, &answer, moved);
    assert_eq!((a.endpoint(), a.unauthenticated()), (b.address(), 1), "one bit was changed");
    answer[20] ^= 1;
    a.take(start, &answer, moved);
    assert_eq!(a.endpoint(), moved);
    a.take(start, &answer, b.address());
    assert_eq!((a.endpoint(), a.unauthenticated()), (moved, 2), "a replay");
}
