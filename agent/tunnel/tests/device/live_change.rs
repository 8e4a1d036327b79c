//! Changes to a device that is in use.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tunnel::{DeviceUpdate, Error, PeerUpdate, PrivateKey};
use zeroize::Zeroizing;

use crate::lab::{Kind, Node, PORT, Switch, join, settled};
use crate::patience::{Done, eventually, uninterrupted};
use crate::program::{run, run_with};
use crate::tap::set_option;

const PSK: &str = "SHF5q6KMzlTiWWXxuwqmMdxVNRz0JcPZ4PKsBxOBEkA=";

/// Both sides' view of the session between them.
fn session(a: &Node, b: &Node) -> (u128, u128) {
    (a.handshake(b), b.handshake(a))
}

#[test]
fn changing_a_peer_keeps_its_session() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let before = settled(&us, &them);
        let received = || us.device().snapshot().peers.iter().map(|peer| peer.rx_bytes).sum::<u64>();
        let counted = received();
        let key = them.public_key();
        let allowed = format!("{}/32,{}/128,10.99.0.0/16", them.inner4(), them.inner6());
        for change in [
            format!("peer {key} endpoint {}", them.outer4()),
            format!("peer {key} allowed-ips {allowed}"),
            format!("peer {key} persistent-keepalive 5"),
            format!("peer {key} preshared-key /dev/stdin"),
        ] {
            us.wg_with(&change, PSK);
            assert!(us.probe(them.inner4()) && them.probe(us.inner4()), "after {change}");
        }
        assert_eq!(session(&us, &them), before);
        assert!(received() > counted, "the counters went on");

        // The next handshake needs the new key, and the session stays until it is completed.
        us.wg(&format!("peer {key} persistent-keepalive 0"));
        them.wg_with(&format!("peer {} preshared-key /dev/stdin", us.public_key()), PSK);
        assert!(us.probe(them.inner4()) && them.probe(us.inner4()));
        assert_eq!(session(&us, &them), before, "setting the same key at both sides begins no handshake");
    }
}

/// The other side loses the session (as by a restart) and begins a handshake: it succeeds with the changed key and fails with the
/// old one, and until then the current session is not disturbed.
#[test]
fn a_changed_preshared_key_is_used_from_the_next_handshake_on() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let (before, _) = settled(&us, &them);
        us.wg_with(&format!("peer {} preshared-key /dev/stdin", them.public_key()), PSK);
        let forget = |psk: &str| {
            them.wg(&format!("peer {} remove", us.public_key()));
            them.add(&us, Some(&us.outer4()), psk);
        };
        forget("");
        for _ in 0..2 {
            assert!(!them.probe_for(us.inner4(), Duration::from_secs(1)), "the old key");
        }
        assert_eq!(us.handshake(&them), before);
        forget(PSK);
        them.reaches(us.inner4());
        assert!(us.probe(them.inner4()));
        eventually("a new handshake", || (us.handshake(&them) > before).then_some(()));
    }
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    join(&us, &them);
    let before = settled(&us, &them);
    let config = run("wg", &["showconf", &us.name]);
    for command in ["syncconf", "addconf"] {
        run_with("wg", &[command, &us.name, "/dev/stdin"], &config);
        assert_eq!(run("wg", &["showconf", &us.name]), config);
        assert_eq!(session(&us, &them), before);
        assert!(us.probe(them.inner4()) && them.probe(us.inner4()));
    }
    // setconf makes the peers anew, with every implementation.
    run_with("wg", &["setconf", &us.name, "/dev/stdin"], &config);
    assert_eq!(run("wg", &["showconf", &us.name]), config);
    us.reaches(them.inner4());
}

#[test]
fn the_listen_port_changes_under_a_session() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    let other = us.host.within(|| UdpSocket::bind("[::]:4444")).unwrap();
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let before = settled(&us, &them);
        us.wg("listen-port 5555");
        us.is_answered_at_once(&them, "the new port");
        them.believes(&us, "192.0.2.1:5555");
        assert!(them.probe(us.inner4()));
        eventually("the old port is free", || us.host.within(|| UdpSocket::bind(("0.0.0.0", PORT))).ok());

        let error = us.device().apply(DeviceUpdate { listen_port: Some(4444), ..DeviceUpdate::default() });
        let error = error.unwrap_err();
        assert!(matches!(error, Error::PortTaken { port: 4444 }), "{error}");
        assert_eq!(us.device().snapshot().listen_port, 5555);
        assert!(us.probe(them.inner4()) && them.probe(us.inner4()), "a port that is in use changes nothing");
        us.listens_at(PORT);
        us.reaches(them.inner4());
        if kind == Kind::WireguardGo {
            // Our device believes the new port only after a handshake there.
            assert_eq!(session(&us, &them), before);
        }
    }
    drop(other);
}

#[test]
fn the_private_key_changes_and_sessions_come_back() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let old = us.public_key();
        let new = PrivateKey::from_bytes(Zeroizing::new([200 + number; 32]));
        let public = new.public_key();
        // A peer with the device's new public key is removed.
        let double = PeerUpdate::new(public);
        us.device().apply(DeviceUpdate { peers: vec![double], ..DeviceUpdate::default() }).unwrap();
        us.device().apply(DeviceUpdate { private_key: Some(new), ..DeviceUpdate::default() }).unwrap();
        let state = us.device().snapshot();
        assert_eq!(state.public_key, Some(public));
        assert!(state.peers.iter().all(|peer| peer.public_key != public));
        assert!(!us.probe_for(them.inner4(), Duration::from_millis(300)), "the sessions have ended");

        them.wg(&format!("peer {old} remove"));
        let allowed = format!("{}/32,{}/128", us.inner4(), us.inner6());
        them.wg(&format!("peer {public} endpoint {} allowed-ips {allowed}", us.outer4()));
        them.reaches(us.inner4());
        assert!(us.probe(them.inner4()));
        us.wg_with("private-key /dev/stdin", &us.private_key());
        us.device()
            .apply(DeviceUpdate {
                peers: vec![PeerUpdate { remove: true, ..PeerUpdate::new(them.public_key()) }],
                ..DeviceUpdate::default()
            })
            .unwrap();
    }
}

/// The mark selects routing rules for the datagrams.
#[test]
fn the_mark_is_on_every_datagram() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    us.host.ip("rule add fwmark 0x77 prohibit").unwrap();
    join(&us, &them);
    us.wg("fwmark 0x77");
    assert!(!us.probe_for(them.inner4(), Duration::from_millis(300)));
    // New sockets have it too.
    us.wg("listen-port 5555");
    assert!(!us.probe_for(them.inner4(), Duration::from_millis(300)));
    us.wg("fwmark off");
    assert!(us.probe(them.inner4()));
}

/// The device's own key as a peer is ignored, as by every implementation.
#[test]
fn the_own_key_is_no_peer() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    us.wg(&format!("peer {} endpoint 192.0.2.9:9 allowed-ips 10.77.0.50/32", us.public_key()));
    assert_eq!(us.device().snapshot().peers.len(), 0);
}

/// A flood of packets for a peer that does not answer and for no peer: meanwhile packets of other peers arrive, and updates are
/// made.
#[test]
fn a_flood_of_packets_that_cannot_be_sent_delays_no_other_peer() {
    const PATIENCE: Duration = Duration::from_secs(2);
    // A flood that delays others does so in almost every round; a machine that stalls does so once.
    const ROUNDS: u16 = 20;
    const LATE: usize = 3;
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&us, &them);
    let absent = PrivateKey::from_bytes(Zeroizing::new([99; 32])).public_key();
    us.wg(&format!("peer {absent} endpoint 192.0.2.99:{PORT} allowed-ips 10.99.0.0/24"));
    us.host.ip(&format!("route add 10.98.0.0/15 dev {}", us.name)).unwrap();
    let sink = us.host.within(|| UdpSocket::bind((us.inner4(), 9)).unwrap());
    sink.set_read_timeout(Some(PATIENCE)).unwrap();
    let source = them.host.within(|| UdpSocket::bind((them.inner4(), 0)).unwrap());
    let stop = AtomicBool::new(false);
    let flood = |to: [u8; 4]| {
        let socket = us.host.within(|| UdpSocket::bind((us.inner4(), 0)).unwrap());
        set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 500);
        while !stop.load(Ordering::Relaxed) {
            // A full queue is part of a flood.
            let _ = socket.send_to(&[0; 64 * 500], (IpAddr::from(to), 9));
        }
    };
    let drops = || us.device().snapshot().drops;
    thread::scope(|scope| {
        // More of them than processors, so that there is always something to read.
        for to in [[10, 99, 0, 1], [10, 98, 0, 1]].repeat(3) {
            scope.spawn(move || flood(to));
        }
        // Otherwise the floods would never end.
        let _done = Done(&stop);
        eventually("the floods go on", || {
            let drops = drops();
            (drops.unsendable > 10_000 && drops.no_peer > 10_000).then_some(())
        });
        let before = drops();
        let rounds: Vec<Result<(), String>> = (1..=ROUNDS)
            .map(|round| {
                let update = PeerUpdate { persistent_keepalive: Some(round), ..PeerUpdate::new(absent) };
                let began = Instant::now();
                us.device().apply(DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() }).unwrap();
                if began.elapsed() > PATIENCE {
                    return Err(format!("update {round} took {:?}", began.elapsed()));
                }
                source.send_to(&round.to_be_bytes(), (us.inner4(), 9)).unwrap();
                let mut word = [0; 2];
                // A packet of an earlier round may still arrive.
                while word != round.to_be_bytes() {
                    uninterrupted(|| sink.recv(&mut word))
                        .map_err(|error| format!("packet {round} did not arrive: {error}"))?;
                }
                Ok(())
            })
            .collect();
        eventually("the floods still go on", || {
            let after = drops();
            (after.unsendable > before.unsendable && after.no_peer > before.no_peer).then_some(())
        });
        assert!(rounds.iter().filter(|round| round.is_err()).count() <= LATE, "{rounds:?}");
    });
}
