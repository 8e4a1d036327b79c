//! What a hostile machine can send by a stream.

use std::net::UdpSocket;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use boringtun::noise::{Tunn, TunnResult};
use mesh_tunnel::{Proof, StreamInbound, StreamOrigin};

use testkit::Rng;

use crate::lab::{Kind, Node, Switch, join, settled};
use crate::patience::{Done, eventually};
use crate::pipe::{Pipe, Stream, receive};
use crate::streams::transfer;

/// A stream to the node that only the test reads.
fn opened(node: &Node) -> (StreamInbound, Arc<Pipe>) {
    let answers: Arc<Pipe> = Arc::default();
    (node.device().handle().stream_inbound(Arc::<Pipe>::clone(&answers), StreamOrigin::Accepted), answers)
}

/// Sealed messages from a to b, which b has not received.
fn sealed(a: &Node, b: &Node, count: usize) -> Vec<Vec<u8>> {
    let pipe: Arc<Pipe> = Arc::default();
    let handle = a.device().handle();
    handle.set_route(&b.public_key(), mesh_tunnel::Route { udp: false, stream: true });
    handle.set_stream(&b.public_key(), Some(Arc::<Pipe>::clone(&pipe)));
    let socket = a.host.within(|| UdpSocket::bind((a.inner4(), 0))).unwrap();
    let mut messages = Vec::new();
    eventually("the packets are sealed", || {
        socket.send_to(&[7; 100], (b.inner4(), 9)).unwrap();
        messages.extend(pipe.taken().into_iter().filter(|message| message[0] == 4));
        (messages.len() >= count).then_some(())
    });
    handle.set_stream(&b.public_key(), None);
    handle.set_route(&b.public_key(), mesh_tunnel::Route::default());
    messages.truncate(count);
    messages
}

/// Garbage of any length and forged, truncated or replayed messages prove nothing and change nothing.
#[test]
fn garbage_forgeries_and_replays_prove_nothing() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    let genuine = sealed(&a, &b, 40);
    let (mut inbound, answers) = opened(&b);
    let mut proofs = 0;
    receive(&mut inbound, &genuine, |key, proof| {
        assert_eq!((key, proof), (a.public_key(), Proof::Data), "it may have been intercepted elsewhere");
        proofs += 1;
    });
    assert!(proofs > 0, "a genuine message is accepted by any stream");

    let before = (settled(&b, &a).0, b.shown("endpoints", &a));
    let refused = || b.device().snapshot().drops.unauthenticated;
    let (start, mut sent, mut rng) = (refused(), 0, Rng::new(3));
    for round in 0..60 {
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        for _ in 0..rng.below(40) {
            let message = &genuine[rng.below(genuine.len())];
            datagrams.push(match rng.below(5) {
                0 => message.clone(),
                1 => message[..rng.below(message.len())].to_vec(),
                2 => {
                    let mut forged = message.clone();
                    let at = rng.below(forged.len());
                    forged[at] ^= 1 << rng.below(8);
                    forged
                }
                3 => {
                    // Of a message type that exists, and any length.
                    let len = rng.pick(&[32, 64, 92, 148, 1500, 65_535]);
                    let mut bytes = rng.bytes(len);
                    bytes[..4].copy_from_slice(&[1 + rng.below(4) as u8, 0, 0, 0]);
                    bytes[4..8].copy_from_slice(&message[4..8]);
                    bytes
                }
                _ => {
                    let len = rng.below(65_536);
                    rng.bytes(len)
                }
            });
        }
        sent += datagrams.len() as u64;
        receive(&mut inbound, &datagrams, |_, _| panic!("round {round}: something was proved"));
    }
    assert_eq!(refused(), start + sent);
    assert!(answers.taken().is_empty(), "invalid messages are not answered");
    assert_eq!((b.handshake(&a), b.shown("endpoints", &a)), before);

    // Ranges that lie outside the buffer, or within each other.
    let mut buffer = rng.bytes(1000);
    let reversed = Range { start: 700, end: 600 };
    let ranges =
        [0..0, 1000..1000, 999..1001, 2000..3000, reversed, 0..1000, 10..20, 5..900, usize::MAX - 1..usize::MAX];
    inbound.receive(&mut buffer, &ranges, |_, _| panic!("something was proved"));
    inbound.receive(&mut [], &ranges, |_, _| panic!("something was proved"));
    assert!(a.probe(b.inner4()) && b.probe(a.inner4()), "the session goes on");
}

/// A handshake's first message proves nothing, because anyone may replay it: the use of its session does.
#[test]
fn a_replayed_initiation_proves_nothing() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    a.add(&b, None, "");
    b.add(&a, None, "");
    let pipe: Arc<Pipe> = Arc::default();
    a.device().handle().set_stream(&b.public_key(), Some(Arc::<Pipe>::clone(&pipe)));
    let mut captured = Vec::new();
    eventually("a asks", || {
        captured.extend(pipe.taken());
        (!captured.is_empty()).then_some(())
    });
    let (mut inbound, answers) = opened(&b);
    receive(&mut inbound, &captured[..1], |_, _| panic!("that proves nothing"));
    assert_eq!(answers.taken().iter().map(|answer| answer[0]).collect::<Vec<_>>(), [2]);
    let refused = || b.device().snapshot().drops.unauthenticated;
    let before = refused();
    receive(&mut inbound, &captured[..1], |_, _| panic!("nor does a replay"));
    assert_eq!((refused(), answers.taken().len()), (before + 1, 0));
}

/// Handshakes by a stream, as many as the device processes, with the cookies that it gives to that stream: handshakes from elsewhere,
/// by another stream as well, succeed.
#[test]
fn a_flood_by_a_stream_stops_no_other_peer() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    let (by_stream, by_udp) = (switch.node(3, Kind::Ours), switch.node(4, Kind::Ours));
    join(&a, &b);
    let stop = AtomicBool::new(false);
    let drops = || b.device().snapshot().drops;
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (mut inbound, answers) = opened(&b);
            let key = (*b.public_key().as_bytes()).into();
            let mut tunn = Tunn::new([66; 32].into(), key, None, None, 1, None);
            let mut cookies = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut buffer = [0; 256];
                let TunnResult::WriteToNetwork(message) = tunn.format_handshake_initiation(&mut buffer, true) else {
                    panic!("no initiation")
                };
                let message = message.to_vec();
                receive(&mut inbound, &vec![message; 64], |_, _| panic!("that proves nothing"));
                for cookie in answers.taken().iter().filter(|answer| answer[0] == 3 && answer.len() == 64) {
                    cookies += 1;
                    // It is of the last initiation, or of one before.
                    tunn.decapsulate(None, cookie, &mut buffer);
                }
            }
            cookies
        });
        let done = Done(&stop);
        eventually("the device is under load", || (drops().under_load > 1000).then_some(()));
        transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
        by_stream.add(&b, None, "");
        b.add(&by_stream, None, "");
        let stream = Stream::between(&by_stream, &b);
        by_stream.reaches(b.inner4());
        by_udp.add(&b, Some(&b.outer4()), "");
        b.add(&by_udp, None, "");
        by_udp.reaches(b.inner4());
        let before = drops().under_load;
        eventually("the flood went on all the time", || (drops().under_load > before + 1000).then_some(()));
        drop((done, stream));
        assert!(flood.join().unwrap() > 0, "no cookie was offered");
    });
}
