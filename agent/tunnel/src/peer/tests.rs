//! Two peers on loopback sockets, under a clock of the test's own.

use std::num::NonZeroU8;
use std::sync::mpsc::{self, Receiver, Sender};

use zeroize::Zeroizing;

use super::*;
use crate::config::Offloads;
use crate::control::Request;
use crate::device::Machine;
use crate::key::PrivateKey;
use crate::noise::{Message, OVERHEAD, classify};
use crate::output::Wake;
use crate::path::Watch;
use crate::transmit::{Outside, flush};
use crate::udp::{self, Sockets};

mod counts;
mod due;
mod endpoint;
mod paths;
mod preshared_key;
mod proofs;
mod waiting;

const S: Duration = Duration::from_secs(1);

/// Of [`packet`].
const SMALL: Size = Size { longest: 32, mtu: 1420 };

struct End {
    identity: Identity,
    sockets: Sockets,
    counters: Counters,
    limiter: HandshakeLimiter,
    flood: Mutex<Flood>,
    watch: Option<Watch>,
    control: Sender<Request>,
    requests: Receiver<Request>,
    peer: Arc<Peer>,
}

/// An IP packet that ends in a word.
fn packet(word: u8) -> [u8; 32] {
    let mut packet = [0; 32];
    (packet[0], packet[3], packet[31]) = (0x45, 32, word);
    packet
}

fn two_ends(start: Instant) -> (End, End) {
    let key = |seed| PrivateKey::from_bytes(Zeroizing::new([seed; 32]));
    let end = |own: u8, other: u8| {
        let (control, requests) = mpsc::channel();
        End {
            identity: Identity::new(key(own)),
            sockets: Sockets::bind(0, 0, NonZeroU8::MIN, Offloads::ALL).unwrap(),
            counters: Counters::default(),
            limiter: HandshakeLimiter::new(),
            flood: Mutex::default(),
            watch: None,
            control,
            requests,
            peer: Arc::new(Peer::new(
                key(other).public_key(),
                own.into(),
                &Arc::new(Indices::with_key(own.into())),
                start,
            )),
        }
    };
    let (a, b) = (end(1, 2), end(2, 1));
    a.peer.set_endpoint(b.address(), start);
    b.peer.set_endpoint(a.address(), start);
    (a, b)
}

impl End {
    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.sockets.port()).into()
    }

    /// Lets the peer do something, and carries out what it decided.
    fn with<R>(&self, now: Instant, work: impl FnOnce(&Arc<Peer>, &mut Context<'_>) -> R) -> R {
        let Self { identity, sockets, counters, limiter, flood, control, .. } = self;
        let (watch, mut output) = (self.watch.as_ref(), Output::default());
        let tap = watch.map(|watch| watch.tap);
        let done = work(
            &self.peer,
            &mut Context { identity, counters, limiter, flood, tap, environment: &Machine, now, output: &mut output },
        );
        Outside { sockets, counters, control, watch }.carry_out(&mut output, |_, _| {});
        done
    }

    fn initiate(&self, now: Instant) -> InitiateOutcome {
        self.with(now, Peer::initiate)
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        self.with(now, Peer::tick)
    }

    fn try_endpoint(&self, now: Instant, address: SocketAddr) {
        self.with(now, |peer, context| peer.try_endpoint(context, address));
    }

    fn send(&self, now: Instant, word: u8) {
        let write = |_, buffer: &mut [u8]| {
            buffer[..32].copy_from_slice(&packet(word));
            32
        };
        let mut batch = SendBatch::new(NonZeroU8::MIN);
        self.with(now, |peer, context| peer.send(context, 0..1, SMALL, write, &mut batch));
        assert!(!flush(&mut batch, &self.sockets, 0, &self.counters));
    }

    /// The next datagram that came.
    fn datagram(&self) -> Vec<u8> {
        let end = Instant::now() + 30 * S;
        let mut buffer = vec![0; 2048];
        loop {
            match udp::receive(self.sockets.queue(0).next().unwrap(), &mut buffer) {
                Ok(len) => return buffer[..len].to_vec(),
                Err(error) => assert!(Instant::now() < end, "no datagram came: {error}"),
            }
            std::thread::yield_now();
        }
    }

    fn has_datagram(&self) -> bool {
        udp::receive(self.sockets.queue(0).next().unwrap(), &mut [0; 2048]).is_ok()
    }

    /// Takes a datagram as if it came from `from`; returns the last byte of the packet in it.
    fn take(&self, now: Instant, datagram: &[u8], from: SocketAddr) -> Option<u8> {
        self.take_via(now, datagram, Via::Udp(Endpoint { address: from, source: None }))
    }

    fn take_via(&self, now: Instant, datagram: &[u8], from: Via<'_>) -> Option<u8> {
        let mut word = None;
        self.with(now, |peer, context| match classify(datagram).unwrap() {
            Message::Initiation => {
                let initiation = Initiation::read(&self.identity, datagram).unwrap();
                assert_eq!(initiation.initiator(), peer.key());
                peer.receive_initiation(context, initiation, from);
            }
            Message::Response { receiver } => _ = peer.receive_response(context, receiver, datagram, from),
            Message::Cookie { receiver } => peer.receive_cookie(context, receiver, datagram),
            Message::Data { receiver } => {
                let deliver = |_: &mut Output, buffer: &mut [u8], packet: Range<usize>, _| {
                    word = buffer[packet].last().copied();
                    true
                };
                let mut buffer = datagram.to_vec();
                let datagrams = std::iter::once(0..datagram.len());
                peer.receive_data(context, receiver, &mut buffer, datagrams, from, deliver);
            }
        });
        word
    }

    /// Takes the next `count` datagrams and returns the words in them.
    fn take_next(&self, now: Instant, count: usize, from: &Self) -> Vec<u8> {
        (0..count).filter_map(|_| self.take(now, &self.datagram(), from.address())).collect()
    }

    fn unauthenticated(&self) -> u64 {
        self.counters.read().unauthenticated
    }

    fn endpoint(&self) -> SocketAddr {
        self.peer.view(Instant::now()).endpoint.unwrap()
    }

    fn handshake(&self) -> Option<SystemTime> {
        self.peer.view(Instant::now()).last_handshake
    }
}

/// a asks, b answers, a confirms.
fn shake_hands(a: &End, b: &End, now: Instant) {
    a.initiate(now);
    b.take_next(now, 1, a);
    a.take_next(now, 1, b);
    b.take_next(now, 1, a);
    assert!(a.handshake().is_some() && b.handshake().is_some());
}

#[test]
fn packets_wait_for_the_session_in_order() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    for word in 1..=3 {
        a.send(start, word);
    }
    b.take_next(start, 1, &a);
    a.take_next(start, 1, &b);
    assert_eq!(b.take_next(start, 4, &a), [1, 2, 3], "the confirmation and the three packets");
    assert!(!b.has_datagram(), "one initiation, however many packets wait");
}

#[test]
fn the_initiator_renews_a_session_under_traffic_and_nothing_is_lost() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let later = start + 121 * S;
    b.send(later, 1);
    assert!(!b.has_datagram());
    assert_eq!(a.take_next(later, 1, &b), [1], "the responder does not ask");
    assert!(!a.has_datagram());

    let before = a.handshake();
    a.send(later, 2);
    a.send(later, 3);
    let initiation_later: Vec<Vec<u8>> = (0..3).map(|_| b.datagram()).collect();
    let kinds: Vec<u8> = initiation_later.iter().map(|datagram| datagram[0]).collect();
    assert_eq!(kinds, [1, 4, 4], "one initiation, which does not wait for the batch, and the packets");
    let words: Vec<u8> = initiation_later.iter().filter_map(|datagram| b.take(later, datagram, a.address())).collect();
    assert_eq!(words, [2, 3]);
    // b still sends under the old session, until a has proved to have the new one.
    b.send(later, 4);
    assert_eq!(a.take_next(later, 2, &b), [4]);
    assert!(a.handshake() > before);
    a.send(later, 5);
    assert_eq!(b.take_next(later, 2, &a), [5]);
    b.send(later, 6);
    assert_eq!(a.take_next(later, 1, &b), [6]);
    a.send(later + 119 * S, 7);
    assert_eq!(b.take_next(later, 1, &a), [7]);
    assert!(!b.has_datagram(), "the new session is young");
}

#[test]
fn a_session_that_both_sides_asked_for_is_renewed() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    a.initiate(start);
    b.initiate(start);
    for _ in 0..3 {
        // The initiations cross, then the answers, then the proofs.
        let (to_a, to_b) = (a.datagram(), b.datagram());
        a.take(start, &to_a, b.address());
        b.take(start, &to_b, a.address());
    }
    let later = start + 121 * S;
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.send(later, 1);
        assert_eq!((to.datagram()[0], to.datagram()[0]), (1, 4), "an initiation for the next session, and the packet");
    }
}

/// Begins another handshake, whatever there is already.
fn ask(end: &End, now: Instant) {
    end.peer.lock().timers.restart_handshake(now);
    end.initiate(now);
}

/// An attacker that recorded old handshakes must not get our packets sent under sessions that no peer holds.
#[test]
fn a_session_that_the_peer_did_not_prove_to_hold_carries_nothing() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    for _ in 0..20 {
        ask(&a, start);
        b.take_next(start, 1, &a);
        assert_eq!(a.datagram()[0], 2, "an answer, which gets lost");
        assert_eq!(b.peer.view(start).last_received, None, "the peer has not proved to be there");
        assert!(b.peer.lock().sessions.sealing(start).is_none());
    }
    b.send(start, 1);
    assert_eq!(a.datagram()[0], 1, "a handshake comes first");
}

/// The first tries come faster than an answer from far away, and the peer may have dropped what it does not answer last.
#[test]
fn late_answers_count_and_the_last_one_is_used() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    let initiations: Vec<Vec<u8>> = (0..3)
        .map(|_| {
            ask(&a, start);
            b.datagram()
        })
        .collect();
    for initiation in &initiations {
        b.take(start, initiation, a.address());
    }
    let answers: Vec<Vec<u8>> = (0..3).map(|_| a.datagram()).collect();
    for (word, answer) in (1..).zip(&answers) {
        a.send(start, word);
        assert!(a.handshake().is_none() && !b.has_datagram(), "packets wait for the last");
        a.take(start, answer, b.address());
    }
    assert_eq!(b.take_next(start, 4, &a), [1, 2, 3], "the confirmation and the packets");
    b.send(start, 4);
    assert_eq!(a.take_next(start, 1, &b), [4]);
    let refused = a.unauthenticated();
    a.take(start, &answers[0], b.address());
    assert_eq!(a.unauthenticated(), refused + 1, "no answer counts twice");
}

/// Where the last initiation was lost, another takes its place as soon as it should have been answered. A handshake that succeeds
/// leaves nothing behind that would ask for another before its time.
#[test]
fn an_answer_to_an_earlier_initiation_brings_another() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    ask(&a, start);
    let initiation = b.datagram();
    ask(&a, start);
    b.datagram();
    b.take(start, &initiation, a.address());
    a.take_next(start, 1, &b);
    let at = a.peer.lock().scheduled.unwrap();
    assert!(at < start + S / 2 && !b.has_datagram());
    a.tick(at);
    b.take_next(at, 1, &a);
    a.take_next(at, 1, &b);
    b.take_next(at, 1, &a);
    for second in 1..118 {
        let now = start + second * S;
        a.send(now, 1);
        assert_eq!(b.take_next(now, 1, &a), [1], "only the packet, {second} s later");
        b.send(now, 2);
        assert_eq!(a.take_next(now, 1, &b), [2]);
        a.tick(now);
        assert!(!b.has_datagram(), "{second} s later");
    }
}

#[test]
fn a_silent_peer_costs_nothing_in_the_end() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    a.send(start, 1);
    let mut next = None;
    let mut initiations = 0;
    loop {
        while let Ok(Request::Wake(Wake { at, .. })) = a.requests.try_recv() {
            next = Some(at);
        }
        while b.has_datagram() {
            initiations += 1;
        }
        let Some(at) = next.take() else { break };
        assert!(at <= start + 400 * S, "it never ends");
        next = a.tick(at);
    }
    assert!((20..=24).contains(&initiations), "{initiations} in 90 s");
    let state = a.peer.lock();
    assert!(!state.sessions.in_use() && state.staged.is_empty() && state.scheduled.is_none());
}

/// What a thread holds while others send is late; where there are no others, nothing is.
#[test]
fn several_threads_hold_back_less_than_a_receiver_forgives() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    let write = |_, buffer: &mut [u8]| {
        buffer[..32].copy_from_slice(&packet(1));
        32
    };
    for (threads, most) in [(1, None), (2, Some(128)), (8, Some(32)), (255, Some(1))] {
        let mut batch = SendBatch::new(NonZeroU8::new(threads).unwrap());
        for _ in 0..2 {
            let mut held = 0;
            while batch.room(32) > 0 {
                // As many as a superpacket has, or fewer.
                let count = batch.room(32).min(45);
                a.with(start, |peer, context| peer.send(context, 0..count, SMALL, write, &mut batch));
                held += count;
            }
            assert_eq!(Some(held), most.or(Some((256 << 10) / (32 + crate::noise::OVERHEAD))), "{threads} threads");
            flush(&mut batch, &a.sockets, 0, &a.counters);
        }
    }
}

#[test]
fn a_removed_peer_takes_and_sends_nothing() {
    let start = Instant::now();
    let (a, b) = two_ends(start);
    shake_hands(&a, &b, start);
    a.send(start, 1);
    let datagram = b.datagram();
    b.peer.remove();
    assert_eq!(b.take(start, &datagram, a.address()), None);
    b.send(start, 2);
    b.initiate(start);
    a.peer.end_sessions();
    a.initiate(start);
    b.take_next(start, 1, &a);
    assert!(!a.has_datagram());
}
