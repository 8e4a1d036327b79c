//! Which addresses and keys may send and receive.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use ipnetwork::IpNetwork;
use mesh_tunnel::{DeviceUpdate, PeerUpdate, PublicKey};

use testkit::Namespace;

use crate::lab::{Kind, Node, Switch, join, settled};
use crate::patience::{DEADLINE, Done, eventually, uninterrupted};

fn update(peer: PeerUpdate) -> DeviceUpdate {
    DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }
}

/// The number of packets that the interface got from the device.
fn packets_in(node: &Node) -> u64 {
    let text = node.host.ip(&format!("-s -o link show {}", node.name)).unwrap();
    let mut words = text.split("RX:").nth(1).unwrap().split('\\').nth(1).unwrap().split_whitespace();
    words.nth(1).unwrap().parse().unwrap()
}

/// Sends a datagram from any source address.
fn send_from(host: &Namespace, from: IpAddr, to: IpAddr) {
    let socket = host.within(|| UdpSocket::bind((from, 0))).unwrap();
    socket.send_to(b"x", (to, 9)).unwrap();
}

#[test]
fn an_inner_source_of_another_peer_is_refused() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (4, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        // The peer has a whole network, except for one address, which is another peer's.
        let network: IpNetwork = format!("10.88.{number}.0/24").parse().unwrap();
        us.wg(&format!("peer {} allowed-ips {}/32,{network}", them.public_key(), them.inner4()));
        let other = PublicKey::from_bytes([number; 32]);
        let theirs: IpAddr = [10, 88, number, 9].into();
        us.device().apply(update(PeerUpdate { allowed_ips: vec![theirs.into()], ..PeerUpdate::new(other) })).unwrap();
        for last in [8, 9, 10] {
            them.host.ip(&format!("addr add 10.88.{number}.{last}/32 dev {}", them.name)).unwrap();
        }
        them.host.ip(&format!("addr add 10.99.0.1/32 dev {}", them.name)).unwrap();

        // Five packets with its own source, five with the other peer's, five with no peer's; its own last, because they arrive in
        // order.
        let refused = us.device().snapshot().drops.source_refused;
        let before = packets_in(&us);
        for source in [[10, 88, number, 8], [10, 88, number, 9], [10, 99, 0, 1], [10, 88, number, 10]] {
            for _ in 0..5 {
                send_from(&them.host, source.into(), us.inner4());
            }
        }
        eventually("the packets with its own source", || (packets_in(&us) >= before + 10).then_some(()));
        assert_eq!(packets_in(&us), before + 10);
        assert_eq!(us.device().snapshot().drops.source_refused, refused + 10);
    }
}

#[test]
fn an_allowed_ip_moves_to_the_peer_that_claims_it_last() {
    let switch = Switch::new();
    let (us, mut b, mut c) =
        (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo), switch.node(3, Kind::Ours));
    join(&us, &b);
    join(&us, &c);
    let moving: IpAddr = [10, 77, 0, 99].into();
    for node in [&mut b, &mut c] {
        node.host.ip(&format!("addr add {moving}/32 dev {}", node.name)).unwrap();
        node.echo_on(moving);
    }
    let claim = |node: &Node| {
        let (before, _) = settled(&us, node);
        us.device()
            .apply(update(PeerUpdate { allowed_ips: vec![moving.into()], ..PeerUpdate::new(node.public_key()) }))
            .unwrap();
        us.reaches(moving);
        assert_eq!(us.handshake(node), before, "moving an allowed IP begins no handshake");
        assert!(us.shown("allowed-ips", node).contains("10.77.0.99/32"));
    };
    claim(&b);
    claim(&c);
    assert!(!us.shown("allowed-ips", &b).contains("10.77.0.99/32"));
    let sent = || us.shown("transfer", &b).split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    // What it gets may also be a keepalive that acknowledges its last packet, but not in each round.
    eventually("the packets go to the new owner", || {
        let before = sent();
        (us.probe(moving) && sent() == before).then_some(())
    });
    claim(&b);
}

#[test]
fn a_removed_peer_is_cut_off_before_the_call_returns() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let socket = them.host.within(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap();
        socket.connect((us.inner4(), 9)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let done = Done(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // No socket listens there: each is answered by ICMP, which is an error of the next call.
                    let _ = socket.send(b"never pausing");
                }
            });
            let before = packets_in(&us);
            eventually("packets arrive", || (packets_in(&us) > before + 100).then_some(()));
            us.device().apply(update(PeerUpdate { remove: true, ..PeerUpdate::new(them.public_key()) })).unwrap();
            let after = packets_in(&us);
            let dropped = us.device().snapshot().drops.unauthenticated;
            eventually("the sender goes on sending", || {
                (us.device().snapshot().drops.unauthenticated > dropped + 100).then_some(())
            });
            drop(done);
            assert_eq!(packets_in(&us), after, "a packet was accepted after the removal");
        });
        assert!(!us.probe_for(them.inner4(), Duration::from_millis(300)));
        // When it is added again, a new handshake succeeds.
        us.add(&them, Some(&them.outer4()), "");
        us.reaches(them.inner4());
    }
}

#[test]
fn peers_with_low_order_keys_are_never_contacted() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    let sink = switch.host(9);
    let socket = sink.within(|| UdpSocket::bind("0.0.0.0:4000")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut one = [0; 32];
    one[0] = 1;
    let order_8 = *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\x00";
    let peer = |bytes: [u8; 32], port: u16, last: u8| PeerUpdate {
        endpoint: Some(([192, 0, 2, 9], port).into()),
        persistent_keepalive: Some(1),
        allowed_ips: vec![IpAddr::from([10, 77, 0, last]).into()],
        ..PeerUpdate::new(PublicKey::from_bytes(bytes))
    };
    for (last, bytes) in [(100, [0; 32]), (101, one), (102, order_8)] {
        us.device().apply(update(peer(bytes, 4000, last))).unwrap();
        assert!(!us.probe_for([10, 77, 0, last].into(), Duration::from_millis(100)));
    }
    let unsendable = || us.device().snapshot().drops.unsendable;
    eventually("three packets are dropped", || (unsendable() == 3).then_some(()));
    // A valid key with the same endpoint: its first three initiations arrive, and nothing before or between them.
    us.device().apply(update(peer([7; 32], 4000, 103))).unwrap();
    let mut buffer = [0; 2048];
    for _ in 0..3 {
        let len = uninterrupted(|| socket.recv(&mut buffer)).unwrap();
        assert_eq!((len, buffer[0]), (148, 1));
        // The first MAC is keyed with the receiver's key: all three are for the valid one (boringtun checks, as that peer).
        let sound = boringtun::noise::rate_limiter::RateLimiter::new(&[7; 32].into(), 100);
        assert!(sound.verify_packet(None, &buffer[..len], &mut [0; 64]).is_ok());
    }
}

#[test]
fn packets_for_no_peer_are_counted() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    let before = us.device().snapshot().drops.no_peer;
    assert!(!us.probe_for([10, 77, 0, 200].into(), Duration::from_millis(100)));
    eventually("a packet for no peer", || (us.device().snapshot().drops.no_peer > before).then_some(()));
}

/// Copies of one initiation: more than the device answers in a second without asking for a cookie, so that a machine of any speed
/// can make a flood with few Curve25519 multiplications. A copy passes the first MAC as the original does.
const COPIES: u64 = 512;

/// Handshakes as fast as the device can take them, with a valid first MAC, from a sender that uses the cookies it gets.
struct Attacker<'a> {
    victim: &'a Node,
    socket: UdpSocket,
    tunn: Tunn,
    cookies: &'a AtomicU64,
}

impl Attacker<'_> {
    /// Sends an initiation many times and waits until the device has processed every copy, so that its queue has room for others:
    /// if a peer is kept out, it is by the load and not by a full buffer.
    fn strike(&mut self) {
        let mut buffer = [0; 256];
        let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(&mut buffer, true) else {
            panic!()
        };
        let looked_at = || {
            let drops = self.victim.device().snapshot().drops;
            drops.under_load + drops.unauthenticated
        };
        let before = looked_at();
        for _ in 0..COPIES {
            // A full buffer is part of a flood.
            let _ = self.socket.send_to(message, self.victim.outer4());
        }
        let end = Instant::now() + Duration::from_secs(1);
        while looked_at() < before + COPIES && Instant::now() < end {
            thread::yield_now();
        }
        self.take_cookies();
    }

    /// Reads every reply that waits. A reply to an older initiation is no cookie for the last one.
    fn take_cookies(&mut self) {
        let (mut reply, mut buffer) = ([0; 256], [0; 256]);
        while let Ok(len) = self.socket.recv(&mut reply) {
            if matches!(self.tunn.decapsulate(None, &reply[..len], &mut buffer), TunnResult::Done) {
                self.cookies.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A peer at another address than the attacker's completes its handshake.
#[test]
fn a_handshake_flood_does_not_keep_a_peer_out() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    let host = switch.host(66);
    let (stop, cookies) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = host.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
            socket.set_nonblocking(true).unwrap();
            let tunn = Tunn::new([66; 32].into(), (*us.public_key().as_bytes()).into(), None, None, 1, None);
            let mut attacker = Attacker { victim: &us, socket, tunn, cookies: &cookies };
            while !stop.load(Ordering::Relaxed) {
                attacker.strike();
            }
        });
        let _done = Done(&stop);
        eventually("the attacker has cookies", || (cookies.load(Ordering::Relaxed) > 0).then_some(()));
        let before = us.device().snapshot().drops.under_load;
        eventually("it is refused nevertheless", || {
            (us.device().snapshot().drops.under_load > before + 1000).then_some(())
        });
        us.add(&them, None, "");
        them.add(&us, Some(&us.outer4()), "");
        them.reaches(us.inner4());
    });
}
