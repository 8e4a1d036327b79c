//! A peer that is reached by a stream, by UDP, by both or by neither.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::path::{Carrier, Path, StreamOrigin, Watcher};
use crate::stream_source::StreamSource;

/// A stream whose other end is the test.
#[derive(Debug, Default)]
pub(super) struct Wagon {
    carried: Mutex<Vec<Vec<u8>>>,
    is_over: AtomicBool,
}

impl Carrier for Wagon {
    fn send(&self, datagrams: &[u8], segment: usize) -> bool {
        let is_over = self.is_over.load(Ordering::Relaxed);
        if !is_over {
            self.carried.lock().unwrap().extend(datagrams.chunks(segment).map(<[u8]>::to_vec));
        }
        !is_over
    }
}

impl Wagon {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What has come since.
    pub(super) fn unload(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.carried.lock().unwrap())
    }

    /// The kinds of message that have come since.
    pub(super) fn kinds(&self) -> Vec<u8> {
        self.unload().iter().map(|message| message[0]).collect()
    }
}

pub(super) fn carrier(wagon: &Arc<Wagon>) -> Arc<dyn Carrier> {
    Arc::<Wagon>::clone(wagon)
}

impl End {
    pub(super) fn take_by(&self, now: Instant, messages: &[Vec<u8>], answers: &Arc<Wagon>) -> Vec<u8> {
        let carrier = carrier(answers);
        let via = Via::Stream { carrier: &carrier, source: StreamSource::new(1, StreamOrigin::Accepted).get() };
        messages.iter().filter_map(|message| self.take_via(now, message, via)).collect()
    }

    pub(super) fn inner(&self, now: Instant, path: Path, word: u8) -> bool {
        self.with(now, |peer, context| peer.send_inner(context, path, &packet(word), 1420))
    }
}

/// Two ends that have streams to each other, and use nothing else.
pub(super) fn two_ends_of_a_stream(start: Instant) -> (End, End, Arc<Wagon>, Arc<Wagon>) {
    let (a, b) = two_ends(start);
    let (forth, back) = (Wagon::new(), Wagon::new());
    for (end, wagon) in [(&a, &forth), (&b, &back)] {
        end.peer.set_route(Route { udp: false, stream: true });
        assert!(end.peer.set_stream(Some(carrier(wagon)), start), "now there is a path");
        assert!(!end.peer.set_stream(Some(carrier(wagon)), start), "there was one");
    }
    (a, b, forth, back)
}

/// The same with a session.
pub(super) fn two_ends_that_met(start: Instant) -> (End, End, Arc<Wagon>, Arc<Wagon>) {
    let (a, b, forth, back) = two_ends_of_a_stream(start);
    a.initiate(start);
    carry(start, &a, &b, &forth, &back);
    (a, b, forth, back)
}

/// One asks the other by UDP and is answered, and each sees that the other is there.
pub(super) fn prove_endpoint(now: Instant, a: &End, b: &End) {
    a.try_endpoint(now, b.address());
    b.take_next(now, 1, a);
    a.take_next(now, 1, b);
    b.take_next(now, 1, a);
}

/// Carries in both directions until neither has anything to say; the words that arrived at a, and at b.
pub(super) fn carry(now: Instant, a: &End, b: &End, forth: &Arc<Wagon>, back: &Arc<Wagon>) -> (Vec<u8>, Vec<u8>) {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    loop {
        let (to_b, to_a) = (forth.unload(), back.unload());
        if to_a.is_empty() && to_b.is_empty() {
            return (at_a, at_b);
        }
        at_b.extend(b.take_by(now, &to_b, back));
        at_a.extend(a.take_by(now, &to_a, forth));
    }
}

#[test]
fn a_stream_alone_carries_handshake_packets_and_renewal() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_of_a_stream(start);
    for word in 1..=3 {
        a.send(start, word);
    }
    assert_eq!(carry(start, &a, &b, &forth, &back), (vec![], vec![1, 2, 3]));
    b.send(start, 4);
    assert_eq!(carry(start, &a, &b, &forth, &back), (vec![4], vec![]));
    let (before, later) = (a.handshake(), start + 121 * S);
    a.send(later, 5);
    assert_eq!(carry(later, &a, &b, &forth, &back), (vec![], vec![5]));
    assert!(a.handshake() > before, "the session was renewed");
    b.send(later, 6);
    assert_eq!(carry(later, &a, &b, &forth, &back), (vec![6], vec![]));
    b.tick(later + 20 * S);
    assert!(!a.has_datagram() && !b.has_datagram(), "nothing went by UDP");
}

#[test]
fn the_route_says_which_paths_are_taken() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_that_met(start);
    // Each has been asked by UDP, and has answered.
    prove_endpoint(start, &a, &b);
    forth.unload();
    for (udp, stream) in [(true, true), (true, false), (false, true), (false, false)] {
        a.peer.set_route(Route { udp, stream });
        let unsendable = a.counters.read().unsendable;
        a.send(start, 7);
        let by_stream = forth.unload();
        let udp_paths: Vec<u8> = if udp { b.take_next(start, 1, &a) } else { Vec::new() };
        assert_eq!((udp_paths.len(), by_stream.len(), b.has_datagram()), (udp.into(), stream.into(), false));
        assert_eq!(a.counters.read().unsendable, unsendable + u64::from(!udp && !stream));
        let refused = b.unauthenticated();
        let arrived = b.take_by(start, &by_stream, &back).len();
        assert_eq!((arrived, b.unauthenticated() - refused), if udp { (0, stream.into()) } else { (stream.into(), 0) });

        // Of a probe, the route says nothing.
        for path in [Path::Udp, Path::Stream] {
            assert!(a.inner(start, path, 8));
            let (udp_paths, by_stream) = if path == Path::Udp {
                (b.take_next(start, 1, &a), vec![])
            } else {
                (vec![], b.take_by(start, &forth.unload(), &back))
            };
            assert_eq!([udp_paths, by_stream].concat(), [8]);
            assert!(!b.has_datagram() && forth.unload().is_empty());
        }
    }
    a.peer.set_stream(None, start);
    assert!(!a.inner(start, Path::Stream, 9));
}

#[test]
fn a_probe_without_a_session_asks_for_one_by_the_route() {
    let start = Instant::now();
    let (a, b, forth, _) = two_ends_of_a_stream(start);
    assert!(!a.inner(start, Path::Udp, 1));
    assert_eq!((forth.kinds(), b.has_datagram()), (vec![1], false));
    assert!(!a.inner(start, Path::Stream, 1));
    assert!(forth.kinds().is_empty(), "one is under way");
}

/// Who greets by a stream does not know whether the other side still has the session.
#[test]
fn a_greeting_says_something_that_can_be_authenticated() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_of_a_stream(start);
    let other = Wagon::new();
    let initiate = |now| a.with(now, |peer, context| peer.initiate_by(context, &carrier(&other)));
    initiate(start);
    let initiation = other.unload();
    assert_eq!((initiation.len(), initiation[0][0]), (1, 1));
    assert_eq!(b.take_by(start, &initiation, &back), [0; 0]);
    // The proof of the session goes by the stream that the answer came by.
    a.take_by(start, &back.unload(), &other);
    assert_eq!((other.unload().len(), forth.kinds()), (1, vec![]));
    initiate(start + S);
    assert_eq!(other.kinds(), [4, 1], "an empty packet, and what the answer proves the stream by");
    a.peer.remove();
    initiate(start);
    assert!(other.unload().is_empty());
    assert!(!a.peer.set_stream(Some(carrier(&other)), start), "a peer that is gone gets no stream");
}

#[test]
fn where_a_stream_is_over_its_successor_gets_the_run() {
    let start = Instant::now();
    let (a, b, forth, back) = two_ends_that_met(start);
    let write = |_, buffer: &mut [u8]| {
        buffer[..32].copy_from_slice(&packet(1));
        32
    };
    let mut batch = SendBatch::new(NonZeroU8::MIN);
    let mut send = |count: usize, meanwhile: &dyn Fn()| {
        a.with(start, |peer, context| peer.send(context, 0..count, SMALL, write, &mut batch));
        meanwhile();
        flush(&mut batch, &a.sockets, 0, &a.counters);
    };
    let sent = || a.peer.view(start).tx_bytes;
    let (next, before) = (Wagon::new(), sent());
    send(3, &|| {
        forth.is_over.store(true, Ordering::Relaxed);
        a.peer.set_stream(Some(carrier(&next)), start);
    });
    assert_eq!((b.take_by(start, &next.unload(), &back), a.counters.read().io_failed), (vec![1; 3], 0));
    assert_eq!(sent() - before, 3 * (32 + OVERHEAD) as u64);
    // The next one is over as well, whether or not it is still the peer's.
    next.is_over.store(true, Ordering::Relaxed);
    for (round, then) in (1..).zip([Some(carrier(&next)), None]) {
        send(2, &|| _ = a.peer.set_stream(then.clone(), start));
        assert_eq!(a.counters.read().io_failed, 2 * round);
    }
    send(2, &|| ());
    assert_eq!((a.counters.read().io_failed, a.counters.read().unsendable), (4, 0), "what is sent now waits");
    assert_eq!(sent() - before, 3 * (32 + OVERHEAD) as u64, "what was not taken does not count");
}

/// What was reported.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Watcher for Diary {
    fn probe(&self, _: PublicKey, path: Path, packet: &[u8]) {
        self.0.lock().unwrap().push(format!("{} bytes by {path:?}", packet.len()));
    }

    fn sent(&self, _: PublicKey) {
        self.0.lock().unwrap().push("sent".to_owned());
    }

    fn received(&self, _: PublicKey, path: Path) {
        self.0.lock().unwrap().push(format!("received by {path:?}"));
    }

    fn endpoint(&self, _: PublicKey, endpoint: SocketAddr) {
        self.0.lock().unwrap().push(endpoint.to_string());
    }

    fn path_mtu(&self, _: PublicKey, mtu: u16) {
        self.0.lock().unwrap().push(format!("carries {mtu}"));
    }

    fn stun(&self, _: SocketAddr, _: &[u8]) {}
}

#[test]
fn packets_are_reported_now_and_then_and_endpoints_always() {
    let start = Instant::now();
    let (mut a, mut b) = two_ends(start);
    let diaries = [&mut a, &mut b].map(|end| {
        let diary = Arc::new(Diary::default());
        end.watch = Some(Watch { tap: 51823, watcher: Arc::<Diary>::clone(&diary) });
        diary
    });
    let last_reported = |which: usize| std::mem::take(&mut *diaries[which].0.lock().unwrap());
    shake_hands(&a, &b, start);
    a.inner(start, Path::Udp, 1);
    assert_eq!(last_reported(0), Vec::<String>::new(), "neither handshakes, nor keepalives, nor probes");
    b.datagram();
    for after in [0, 49, 50, 99, 100] {
        a.send(start + Duration::from_millis(after), 1);
        b.take_next(start + Duration::from_millis(after), 1, &a);
    }
    assert_eq!(
        (last_reported(0), last_reported(1)),
        (vec!["sent".to_owned(); 3], vec!["received by Udp".to_owned(); 3])
    );
    a.send(start + S, 2);
    let (message, back) = (b.datagram(), Wagon::new());
    b.take_by(start + S, std::slice::from_ref(&message), &back);
    b.take(start + 2 * S, &message, a.address());
    assert_eq!(last_reported(1), ["received by Stream"], "not of the replay");

    let moved = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = moved.local_addr().unwrap();
    b.try_endpoint(start + S, address);
    let mut initiation = [0; 256];
    let len = moved.recv(&mut initiation).unwrap();
    a.take(start + S, &initiation[..len], b.address());
    b.take(start + S, &b.datagram(), address);
    assert_eq!(last_reported(1), [address.to_string()]);
}
