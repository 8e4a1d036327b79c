//! Where a peer is: where a round trip to it was proved, and nowhere that its messages only seem to come from.

use super::*;
use crate::endpoint::LocalAddress;

#[test]
fn an_initiation_alone_moves_no_endpoint() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let attacker = socket.local_addr().unwrap();
    a.initiate(start);
    let initiation = b.datagram();
    // An attacker on the path passes it on from another address, and gets the answer.
    b.take(start, &initiation, attacker);
    assert_eq!(b.endpoint(), a.address());
    socket.set_read_timeout(Some(90 * S)).unwrap();
    let answered = [socket.recv(&mut [0; 2048]).unwrap(), a.datagram().len()];
    assert_eq!(answered, [RESPONSE_LEN; 2], "where the peer is taken to be as well");
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
    assert!(b.handshake().is_none(), "nothing was proved");
}

/// Its routes may lead elsewhere, and the address is still there.
#[test]
fn a_host_that_moves_does_not_send_from_where_it_was_spoken_to() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    b.send(start, 1);
    let source = LocalAddress { ip: [127, 0, 0, 9].into(), interface: 0 };
    let from = Endpoint { address: b.address(), source: Some(source) };
    a.take_via(start, &a.datagram(), Via::Udp(from));
    let known = || a.peer.lock().endpoint.and_then(|endpoint| endpoint.source);
    assert_eq!(known(), Some(source));
    a.peer.forget_any_source();
    assert_eq!((known(), a.endpoint()), (None, b.address()));
}

/// An address that is not expected, and what comes to it.
pub(super) struct Elsewhere(std::net::UdpSocket);

impl Elsewhere {
    pub(super) fn new() -> Self {
        Self::on([127, 0, 0, 1])
    }

    /// On another host, as far as can be seen.
    fn on(host: [u8; 4]) -> Self {
        let socket = std::net::UdpSocket::bind((std::net::IpAddr::from(host), 0)).unwrap();
        socket.set_read_timeout(Some(90 * S)).unwrap();
        Self(socket)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn datagram(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let len = self.0.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    /// The first bytes of what has come.
    pub(super) fn kinds(&self) -> Vec<u8> {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        let kinds = std::iter::from_fn(|| self.0.recv(&mut buffer).is_ok().then_some(buffer[0])).collect();
        self.0.set_nonblocking(false).unwrap();
        kinds
    }
}

/// A sends b a packet, which comes from elsewhere.
fn arrives_from(a: &End, b: &End, now: Instant, word: u8, from: SocketAddr) {
    a.send(now, word);
    assert_eq!(b.take(now, &b.datagram(), from), Some(word));
}

#[test]
fn an_address_that_data_comes_from_is_believed_when_it_answers() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let moved = Elsewhere::new();
    a.send(start, 1);
    let mut datagram = b.datagram();
    datagram[40] ^= 1;
    b.take(start, &datagram, moved.address());
    assert!(moved.kinds().is_empty(), "one bit was changed");
    datagram[40] ^= 1;
    assert_eq!(b.take(start, &datagram, moved.address()), Some(1));
    assert_eq!(b.endpoint(), a.address(), "it may be a lie");
    let initiation = moved.datagram();

    // In the meantime what b sends goes to both.
    b.send(start, 2);
    assert_eq!((moved.datagram()[0], a.take_next(start, 1, &b)), (4, vec![2]));

    // a is there: its answer moves the endpoint, and nothing goes to where it was.
    a.take(start, &initiation, b.address());
    let answer = b.datagram();
    b.take(start, &answer, moved.address());
    assert_eq!(b.endpoint(), moved.address());
    b.send(start, 3);
    assert_eq!((moved.kinds(), a.has_datagram()), (vec![4, 4], false), "the proof of the session, and the packet");
    let refused = b.unauthenticated();
    b.take(start, &datagram, a.address());
    b.take(start, &answer, a.address());
    assert_eq!((b.endpoint(), b.unauthenticated()), (moved.address(), refused + 2), "replays");
}

/// The milliseconds after which a candidate gets its next initiations, and has failed.
const RETRIES: [u64; 3] = [250, 750, 1250];
const FAILED: Duration = Duration::from_secs(2);

/// Lets the time of a candidate pass.
fn fails(end: &End, began: Instant) {
    for after in RETRIES {
        end.tick(began + Duration::from_millis(after));
    }
    end.tick(began + FAILED);
}

/// Four initiations, and then one a second while data comes from there, and no packets for longer and longer, while the flow goes
/// on as if nothing were.
#[test]
fn an_address_that_does_not_answer_gets_an_initiation_a_second_and_no_packets() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let nowhere = Elsewhere::new();
    let mut now = start;
    for (round, pause) in [10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
        // The session is renewed where it has become too old.
        if now > start {
            ask(&b, now);
            a.take_next(now, 1, &b);
            b.take_next(now, 1, &a);
            a.take_next(now, 1, &b);
            // The endpoint has just answered: for a moment no other is needed.
            now += 6 * S;
        }
        let began = now;
        arrives_from(&a, &b, now, 1, nowhere.address());
        for after in RETRIES {
            assert_eq!(nowhere.kinds(), [1], "round {round}, before {after} ms");
            let early = began + Duration::from_millis(after - 1);
            b.tick(early);
            assert!(nowhere.kinds().is_empty());
            now = began + Duration::from_millis(after);
            b.tick(now);
        }
        assert_eq!(nowhere.kinds(), [1]);
        b.send(now, 2);
        assert_eq!((nowhere.datagram()[0], a.take_next(now, 1, &b)), (4, vec![2]), "still to both");
        let ended = began + FAILED;
        b.tick(ended);
        b.send(ended, 3);
        // Up to the end of the pause, or of the session.
        let quiet = ended + pause.min(100) * S;
        for left in [pause.min(100) * 1000, 2500, 1001] {
            let now = quiet - Duration::from_millis(left.into());
            for part in [0, 1, 999] {
                let now = now + Duration::from_millis(part);
                arrives_from(&a, &b, now, 4, nowhere.address());
                b.send(now, 3);
                let initiations = if part == 0 { vec![1] } else { vec![] };
                assert_eq!(nowhere.kinds(), initiations, "round {round}: {pause} s are not over");
            }
            b.tick(now + S);
        }
        assert_eq!((nowhere.kinds(), a.take_next(ended, 10, &b)), (vec![], vec![3; 10]));
        assert_eq!(b.endpoint(), a.address());
        drain(&a, quiet, &b);
        drain(&b, quiet, &a);
        now = ended + pause * S;
    }
}

/// Takes whatever has come.
fn drain(end: &End, now: Instant, from: &End) {
    let mut buffer = [0; 2048];
    while let Ok(len) = udp::receive(end.sockets.queue(0).next().unwrap(), &mut buffer) {
        end.take(now, &buffer[..len], from.address());
    }
}

#[test]
fn packets_go_to_both_for_two_seconds_at_most() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let nowhere = Elsewhere::new();
    arrives_from(&a, &b, start, 1, nowhere.address());
    nowhere.datagram();
    // The trial is not ended: the control thread is late.
    b.send(start + Duration::from_millis(1999), 2);
    assert_eq!(nowhere.datagram()[0], 4);
    b.send(start + 2 * S, 3);
    assert!(nowhere.kinds().is_empty());
    assert_eq!(a.take_next(start + 2 * S, 2, &b), [2, 3]);
}

/// The answer proves the address that was asked. Where it seems to come from elsewhere, that is tried.
#[test]
fn an_answer_proves_what_was_asked() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let (moved, tried) = (Elsewhere::new(), Elsewhere::new());
    a.initiate(start);
    b.take_next(start, 1, &a);
    let mut answer = a.datagram();
    answer[20] ^= 1;
    a.take(start, &answer, moved.address());
    assert_eq!((a.endpoint(), a.unauthenticated()), (b.address(), 1), "one bit was changed");
    assert!(moved.kinds().is_empty());
    answer[20] ^= 1;
    a.take(start, &answer, moved.address());
    assert_eq!((a.endpoint(), moved.datagram()[0]), (b.address(), 1));
    a.take(start, &answer, b.address());
    assert_eq!(a.unauthenticated(), 2, "a replay");

    // As the owner asks who knows where the peer might be.
    a.try_endpoint(start, tried.address());
    let initiation = tried.datagram();
    b.take_next(start, 1, &a);
    b.take(start, &initiation, a.address());
    let answer = a.datagram();
    assert_eq!(a.endpoint(), b.address(), "not before it answers");
    a.take(start, &answer, tried.address());
    assert_eq!(a.endpoint(), tried.address());
}

/// Who asks from an address and then uses the session has got the answer that went there, if it went nowhere else.
#[test]
fn the_use_of_a_session_proves_where_its_answer_went() {
    let start = Instant::now();
    for is_known in [false, true] {
        let (a, b) = two_ends(start);
        if !is_known {
            b.peer.lock().endpoint = None;
        }
        let moved = Elsewhere::new();
        a.initiate(start);
        b.take(start, &b.datagram(), moved.address());
        let answer = moved.datagram();
        assert_eq!(a.has_datagram(), is_known, "the same goes to the endpoint");
        a.take(start, &answer, b.address());
        // It came by another path, which says nothing of where it was.
        b.take(start, &b.datagram(), a.address());
        assert_eq!(b.endpoint(), if is_known { a.address() } else { moved.address() });
    }
}

/// Who asks from elsewhere may be there: it is asked in turn when it uses the session.
#[test]
fn who_asks_from_elsewhere_is_tried_there() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let moved = Elsewhere::new();
    a.initiate(start);
    b.take(start, &b.datagram(), moved.address());
    assert_eq!(moved.kinds(), [2]);
    a.take_next(start, 1, &b);
    b.take(start, &b.datagram(), moved.address());
    assert_eq!(b.endpoint(), a.address(), "it may be a lie");
    a.take(start, &moved.datagram(), b.address());
    b.take(start, &b.datagram(), moved.address());
    assert_eq!(b.endpoint(), moved.address());
}

/// An attacker that can write sources could have packets sent to one host after the other.
#[test]
fn what_is_tried_soon_after_a_failure_gets_no_packets() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let ended = start + FAILED;
    let first = Elsewhere::new();
    arrives_from(&a, &b, start, 1, first.address());
    fails(&b, start);
    assert_eq!(first.kinds(), [1; 4]);
    // Another port of the same host did not answer either.
    let neighbour = Elsewhere::new();
    arrives_from(&a, &b, ended, 2, neighbour.address());
    b.send(ended, 2);
    b.tick(ended + S);
    assert_eq!((neighbour.kinds(), a.take_next(ended, 1, &b)), (vec![1], vec![2]));
    assert!(b.peer.lock().path_state().candidates.next().is_none());
    // Another host is asked, and no more.
    let other = Elsewhere::on([127, 0, 0, 2]);
    let late = ended + 10 * S - Duration::from_millis(1);
    arrives_from(&a, &b, late, 3, other.address());
    b.send(late, 4);
    assert_eq!((other.kinds(), a.take_next(late, 1, &b)), (vec![1], vec![4]));
    fails(&b, late);
    assert_eq!(other.kinds(), [1; 3]);
    // After some quiet a third one gets packets too, for its moment.
    let third = Elsewhere::on([127, 0, 0, 3]);
    let later = late + FAILED + 10 * S;
    arrives_from(&a, &b, later, 5, third.address());
    b.send(later, 6);
    assert_eq!((third.kinds(), a.take_next(later, 1, &b)), (vec![1, 4], vec![6]));
    assert_eq!(b.endpoint(), a.address());
}

/// What comes from an address that leads nowhere is answered at the endpoint as well: else no handshake of the peer would succeed.
#[test]
fn who_seems_to_be_nowhere_gets_its_answers() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let nowhere = Elsewhere::new();
    arrives_from(&a, &b, start, 1, nowhere.address());
    fails(&b, start);
    assert_eq!(nowhere.kinds(), [1; 4]);
    let later = start + 3 * S;
    ask(&a, later);
    b.take(later, &b.datagram(), nowhere.address());
    assert_eq!(nowhere.kinds(), [2]);
    a.take_next(later, 1, &b);
    b.take(later, &b.datagram(), nowhere.address());
    assert!(b.handshake().is_some() && b.endpoint() == a.address());
    assert_eq!(nowhere.kinds(), [1], "with a new session it may have woken up elsewhere");
}

/// A device that learns where the peer is shows it to the peer by sending there, and until it believes that, the peer sends to both.
#[test]
fn an_address_that_the_owner_left_is_not_tried_for_a_moment() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let (new, old) = (Elsewhere::new(), a.address());
    assert!(b.peer.set_endpoint(new.address(), start));
    arrives_from(&a, &b, start + 2 * S, 1, old);
    b.send(start + 2 * S, 2);
    assert_eq!((new.kinds(), a.has_datagram()), (vec![4], false));
    arrives_from(&a, &b, start + 3 * S, 3, old);
    assert_eq!((a.datagram()[0], b.endpoint()), (1, new.address()), "it may have come back");
}

/// An attacker on the path holds back the first message in a session until the peer is elsewhere.
#[test]
fn a_session_that_comes_too_late_moves_nothing() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    b.peer.lock().endpoint = None;
    let before = Elsewhere::new();
    a.initiate(start);
    b.take(start, &b.datagram(), before.address());
    a.take(start, &before.datagram(), b.address());
    let held_back = b.datagram();
    let later = start + 20 * S;
    ask(&a, later);
    b.take_next(later, 1, &a);
    a.take_next(later, 1, &b);
    b.take_next(later, 1, &a);
    assert_eq!(b.endpoint(), a.address());
    let refused = b.unauthenticated();
    b.take(later, &held_back, a.address());
    assert_eq!((b.endpoint(), b.unauthenticated()), (a.address(), refused), "it is authentic, and no news");
}

/// Both ends try all addresses of the other at once: the nearest answers first, and stays.
#[test]
fn of_addresses_tried_side_by_side_the_first_that_answers_stays() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let (near, far) = (Elsewhere::new(), Elsewhere::new());
    let initiations = [&far, &near].map(|elsewhere| {
        a.try_endpoint(start, elsewhere.address());
        elsewhere.datagram()
    });
    let answers = initiations.map(|initiation| {
        b.take(start, &initiation, a.address());
        a.datagram()
    });
    a.take(start, &answers[1], near.address());
    let refused = a.unauthenticated();
    a.take(start, &answers[0], far.address());
    assert_eq!((a.endpoint(), a.unauthenticated()), (near.address(), refused + 1));
    a.try_endpoint(start + S, far.address());
    assert!(far.kinds().is_empty(), "nothing but the near one is tried for a moment");
    a.try_endpoint(start + 2 * S, far.address());
    b.take(start + 2 * S, &far.datagram(), a.address());
    a.take(start + 2 * S, &a.datagram(), far.address());
    assert_eq!(a.endpoint(), far.address());
}
