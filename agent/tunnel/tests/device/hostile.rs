//! What a network can do to a session: garbage, forgeries, replays, reordering, loss and floods.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use mesh_tunnel::Drops;

use testkit::Rng;

use crate::direction::{Direction, let_through};
use crate::lab::{Kind, Node, PORT, Switch, join, settled};
use crate::packets::{UDP, cut};
use crate::patience::{Done, eventually};
use crate::relay::Relay;
use crate::streams::transfer;
use crate::tap::{Frame, Tap, set_option};
use crate::traffic::Traffic;

/// The MTU of the link between the hosts.
const LINK_MTU: usize = 1500;

/// Both pairs of implementations: two nodes of ours, and one of ours with wireguard-go.
fn pairs(switch: &Switch) -> [(Node, Node); 2] {
    [
        (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours)),
        (switch.node(3, Kind::WireguardGo), switch.node(4, Kind::Ours)),
    ]
}

fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}

/// Lost datagrams stay lost, repeated ones are delivered once, and late ones are delivered, in any order.
#[test]
fn each_packet_arrives_once_in_any_order() {
    let switch = Switch::new();
    for (number, (a, b)) in (200..).zip(&pairs(&switch)) {
        let relay = Relay::between(&switch, number, a, b);
        let_through(a, b);
        relay.introduce(a, b);

        let (mut path, mut traffic, mut rng) =
            (Direction::new(a, b), Traffic::new(9, a.number, b.number), Rng::new(number.into()));
        path.shuffled = true;
        let mut earlier: Vec<Vec<u8>> = Vec::new();
        let refused = || b.device().snapshot().drops.unauthenticated;
        let (before, mut repeated) = (refused(), 0);
        for round in 0..6 {
            path.label = format!("round {round}");
            let mut datagrams = relay.collect(path.send(&traffic.burst(300, 300_000)));
            shuffle(&mut rng, &mut datagrams);
            let lost = datagrams.len() / 20;
            datagrams.truncate(datagrams.len() - lost);
            // Some twice, and some of the previous round again.
            let again: Vec<_> = datagrams.iter().chain(&earlier).filter(|_| rng.one_in(4)).cloned().collect();
            repeated += again.len() as u64;
            earlier.clone_from(&datagrams);
            datagrams.extend(again);
            shuffle(&mut rng, &mut datagrams);
            datagrams.iter().for_each(|datagram| relay.pass_on(0, datagram));
            path.settle_but(lost);
        }
        eventually("each repetition is refused", || (refused() == before + repeated).then_some(()));
        path.drain();
    }
}

/// Packets without a session wait for one, in order, superpackets too.
#[test]
fn packets_that_wait_for_a_session_arrive() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    let relay = Relay::between(&switch, 200, &a, &b);
    let_through(&a, &b);
    let mut path = Direction::new(&a, &b);
    assert_eq!(path.send(&Traffic::new(3, 1, 2).burst(100, 200_000)), 100);
    // The answer to an initiation that another one has overtaken is refused, but no packet is.
    let unsent = || Drops { unauthenticated: 0, ..a.device().snapshot().drops };
    let (before, arrived) = (unsent(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| relay.carry(|| arrived.load(Ordering::Relaxed), |_| {}));
        let _done = Done(&arrived);
        path.settle();
    });
    assert_eq!(unsent(), before, "no packet was dropped");
}

#[test]
fn tcp_gets_through_a_bad_network() {
    let switch = Switch::new();
    for (number, (a, b)) in (200..).zip(&pairs(&switch)) {
        let relay = Relay::between(&switch, number, a, b);
        let (done, mut rng) = (AtomicBool::new(false), Rng::new(1));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mangle = |together: &mut Vec<Vec<u8>>| {
                    together.retain(|_| !rng.one_in(100));
                    let again: Vec<_> = together.iter().filter(|_| rng.one_in(50)).cloned().collect();
                    together.extend(again);
                    shuffle(&mut rng, together);
                };
                relay.carry(|| done.load(Ordering::Relaxed), mangle);
            });
            let _done = Done(&done);
            transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
        });
    }
}

/// The data messages of the node in a frame of the outer link.
fn messages(mut frame: Frame, node: &Node) -> Vec<Vec<u8>> {
    const ETHERNET: usize = 14;
    frame.bytes.drain(..ETHERNET);
    frame.vnet.csum_start = frame.vnet.csum_start.saturating_sub(ETHERNET as u16);
    let ip = &frame.bytes;
    if ip[0] != 0x45 || ip[9] != UDP || ip[12..16] != [192, 0, 2, node.number] || ip[20..22] != PORT.to_be_bytes() {
        return Vec::new();
    }
    let messages = cut(&frame).into_iter().map(|packet| packet[28..].to_vec());
    messages.filter(|message| message[0] == 4 && message.len() > 64).collect()
}

/// Forged messages of all kinds, made of a genuine message and of nothing.
fn forgeries(rng: &mut Rng, genuine: &[u8]) -> Vec<Vec<u8>> {
    let len = genuine.len();
    let mut forged = vec![genuine.to_vec(), [genuine, &[0]].concat(), [genuine, genuine].concat(), rng.bytes(len)];
    forged.extend([0, 1, 3, 4, 8, 15, 16, 17, 31, 32, len - 1, rng.below(len)].map(|cut| genuine[..cut].to_vec()));
    for at in (0..16).chain([16, len - 17, len - 16, len - 1, rng.below(len), rng.below(len)]) {
        let mut flipped = genuine.to_vec();
        flipped[at] ^= 1 << rng.below(8);
        forged.push(flipped);
    }
    // Messages of each kind with a receiver that exists, and of kinds that do not.
    for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 200), (0, 148), (5, 64), (255, 1400)] {
        let mut message = rng.bytes(len);
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message[4..8].copy_from_slice(&genuine[4..8]);
        // A response names its receiver after its sender.
        message[8..12].copy_from_slice(&genuine[4..8]);
        forged.push(message);
    }
    forged
}

/// Sends each datagram alone, and once more as a train (`UDP_SEGMENT`) that the receiver may get in one piece, whose last one is
/// shorter. Returns how many datagrams it sent.
fn attack(socket: &UdpSocket, forged: &[Vec<u8>]) -> u64 {
    const CARS: usize = 20;
    let mut sent = 0;
    for message in forged {
        set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
        socket.send(message).unwrap();
        sent += 1;
        // Datagrams that IP would fragment make no train.
        if (2..=LINK_MTU - 28).contains(&message.len()) {
            let train = [&message.repeat(CARS), &message[..message.len() / 2]].concat();
            set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, message.len() as libc::c_int);
            socket.send(&train).unwrap();
            sent += CARS as u64 + 1;
        }
    }
    sent
}

/// Neither forged nor replayed messages deliver a packet, cause one to be sent, or move an endpoint.
#[test]
fn forgeries_and_replays_change_nothing() {
    let switch = Switch::new();
    let host = switch.host(66);
    for (a, b) in &pairs(&switch) {
        join(a, b);
        let (handshake, _) = settled(b, a);
        let_through(a, b);
        let socket = host.within(|| UdpSocket::bind("192.0.2.66:0")).unwrap();
        socket.connect(b.outer4()).unwrap();
        let mut wire = Tap::listener(&b.host, "eth0");
        let (mut path, mut traffic, mut rng) = (Direction::new(a, b), Traffic::new(5, a.number, b.number), Rng::new(5));
        let refused = || b.device().snapshot().drops.unauthenticated;
        let (before, mut sent) = (refused(), 0);
        let endpoint = b.shown("endpoints", a);
        let mut captured: Vec<Vec<u8>> = Vec::new();
        for round in 0..12 {
            path.label = format!("round {round}");
            path.send(&traffic.burst(60, 60_000));
            if !captured.is_empty() {
                let genuine = &captured[rng.below(captured.len())];
                sent += attack(&socket, &forgeries(&mut rng, genuine));
            }
            path.settle();
            while let Some(frame) = wire.next(Instant::now()) {
                captured.extend(messages(frame, a));
            }
            captured.drain(..captured.len().saturating_sub(500));
            eventually("each forgery is refused", || (refused() >= before + sent).then_some(()));
        }
        assert!(sent > 5_000, "{sent}");
        assert_eq!(refused(), before + sent, "no other message was refused");
        path.drain();
        assert_eq!((b.handshake(a), b.shown("endpoints", a)), (handshake, endpoint));
    }
}

/// Handshakes with a valid first MAC, as many as the device can process: the answers are cookies, and sessions go on.
#[test]
fn a_handshake_flood_does_not_stop_a_session() {
    let switch = Switch::new();
    let host = switch.host(66);
    for (a, b) in &pairs(&switch) {
        join(a, b);
        let handshakes = settled(a, b);
        let_through(a, b);
        let (stop, cookies) = (AtomicBool::new(false), AtomicUsize::new(0));
        let drops = || b.device().snapshot().drops;
        thread::scope(|scope| {
            scope.spawn(|| flood(&host.within(|| UdpSocket::bind("192.0.2.66:0")).unwrap(), b, &stop, &cookies));
            let _done = Done(&stop);
            eventually("the device is under load", || (drops().under_load > 1000).then_some(()));
            let before = drops().under_load;
            let mut paths = [Direction::new(a, b), Direction::new(b, a)];
            let mut traffic = [Traffic::new(1, a.number, b.number), Traffic::new(1, b.number, a.number)];
            for _ in 0..10 {
                for (path, traffic) in paths.iter_mut().zip(&mut traffic) {
                    path.send(&traffic.burst(60, 60_000));
                }
                paths.iter_mut().for_each(Direction::settle);
            }
            transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
            assert_eq!((a.handshake(b), b.handshake(a)), handshakes);
            eventually("the flood went on all the time", || (drops().under_load > before + 1000).then_some(()));
        });
        assert!(cookies.load(Ordering::Relaxed) > 0, "no cookie was offered");
    }
}

/// Sends as many handshakes as the device can process, so that none of its packets is lost in a full queue.
fn flood(socket: &UdpSocket, victim: &Node, stop: &AtomicBool, cookies: &AtomicUsize) {
    let mut buffer = [0; 256];
    socket.connect(victim.outer4()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut tunn = Tunn::new([66; 32].into(), (*victim.public_key().as_bytes()).into(), None, None, 1, None);
    while !stop.load(Ordering::Relaxed) {
        let TunnResult::WriteToNetwork(message) = tunn.format_handshake_initiation(&mut buffer, true) else { panic!() };
        let looked_at = || {
            let drops = victim.device().snapshot().drops;
            drops.under_load + drops.unauthenticated
        };
        let goal = looked_at() + 256;
        for _ in 0..256 {
            // A full queue is part of a flood.
            let _ = socket.send(message);
        }
        let patience = Instant::now() + Duration::from_secs(1);
        while looked_at() < goal && Instant::now() < patience {
            thread::yield_now();
        }
        let mut reply = [0; 256];
        while let Ok(len) = socket.recv(&mut reply) {
            // A cookie reply is 64 bytes of type 3 (paper, section 5.4.7).
            cookies.fetch_add(usize::from(len == 64 && reply[0] == 3), Ordering::Relaxed);
        }
    }
}
