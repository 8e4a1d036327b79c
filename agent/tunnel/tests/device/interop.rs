//! The protocol, with `wireguard-go` and with another device of ours.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use mesh_tunnel::{DeviceUpdate, PeerUpdate};

use crate::lab::{Kind, Node, PORT, Switch, join, settled};
use crate::patience::{Watch, eventually};

const SECOND: Duration = Duration::from_secs(1);

const PSK: &str = "SHF5q6KMzlTiWWXxuwqmMdxVNRz0JcPZ4PKsBxOBEkA=";
const OTHER_PSK: &str = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=";

fn both_ways(a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        from.reaches(to.inner4());
        from.reaches(to.inner6());
    }
}

/// IPv4 and IPv6 inside over IPv4 and over IPv6 outside, with either side as the initiator.
#[track_caller]
fn carries_everything(kind: Kind) {
    for outside_v6 in [false, true] {
        for we_ask in [true, false] {
            let switch = Switch::new();
            let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, kind));
            let outside = |node: &Node| if outside_v6 { node.outer6() } else { node.outer4() };
            us.add(&them, Some(&outside(&them)).filter(|_| we_ask).map(String::as_str), "");
            them.add(&us, Some(&outside(&us)).filter(|_| !we_ask).map(String::as_str), "");
            let asking = if we_ask { &us } else { &them };
            let asked = if we_ask { &them } else { &us };
            asking.reaches(asked.inner4());
            both_ways(&us, &them);
            assert_eq!(us.shown("endpoints", &them), outside(&them), "the endpoint, learned or configured");
            assert_eq!(them.shown("endpoints", &us), outside(&us));
        }
    }
}

#[test]
fn carries_everything_to_wireguard_go() {
    carries_everything(Kind::WireguardGo);
}

#[test]
fn carries_everything_to_itself() {
    carries_everything(Kind::Ours);
}

/// Link-local addresses outside: they need the interface, also for the answers.
#[test]
fn carries_over_link_local_addresses() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        them.add(&us, None, "");
        us.add(&them, None, "");
        let local = |node: &Node| -> Ipv6Addr {
            eventually("a link-local address", || {
                let shown = node.host.ip("-6 -o addr show dev eth0 scope link -tentative").unwrap();
                shown.split_whitespace().nth(3)?.split('/').next()?.parse().ok()
            })
        };
        let shown = us.host.ip("-o link show dev eth0").unwrap();
        let index: u32 = shown.split(':').next().unwrap().parse().unwrap();
        local(&us);
        let endpoint = SocketAddrV6::new(local(&them), PORT, 0, index);
        let peer = PeerUpdate { endpoint: Some(endpoint.into()), ..PeerUpdate::new(them.public_key()) };
        us.device().apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
        both_ways(&us, &them);
        let state = us.device().snapshot();
        assert!(state.peers.iter().any(|peer| peer.endpoint == Some(endpoint.into())), "{state:?}");
        assert!(them.shown("endpoints", &us).contains(&local(&us).to_string()));
    }
}

#[test]
fn a_preshared_key_is_needed_on_both_sides() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        us.add(&them, Some(&them.outer4()), PSK);
        them.add(&us, Some(&us.outer4()), OTHER_PSK);
        assert!(!us.probe_for(them.inner4(), SECOND) && !them.probe_for(us.inner4(), SECOND), "different keys");
        assert_eq!((us.handshake(&them), them.handshake(&us)), (0, 0));
        them.add(&us, Some(&us.outer4()), PSK);
        both_ways(&us, &them);
        assert_eq!(us.shown("preshared-keys", &them), PSK);
    }
}

/// Outside, a packet's length shows only in steps of 16 bytes, and the peer delivers it without the padding.
#[test]
fn packets_are_padded() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    join(&us, &them);
    // Messages of a handshake have other lengths.
    settled(&us, &them);
    let sent = || us.device().snapshot().peers[0].tx_bytes;
    for to in [them.inner4(), them.inner6()] {
        let before = sent();
        assert!(us.probe(to));
        // Header 16, tag 16, and an IP packet of 38 or 58 bytes, a little more where the test's names are longer.
        assert_eq!((sent() - before) % 16, 0);
    }
}

#[test]
fn keepalives_are_sent_without_traffic() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let received = || -> u64 { them.shown("transfer", &us).split_whitespace().next().unwrap().parse().unwrap() };
        us.wg(&format!("peer {} persistent-keepalive 1", them.public_key()));
        let before = received();
        eventually("two keepalives of 32 bytes", || (received() >= before + 64).then_some(()));
        us.wg(&format!("peer {} persistent-keepalive off", them.public_key()));
        assert_eq!(us.shown("persistent-keepalive", &them), "off");
    }
}

/// Data without an answer makes the sender begin a handshake after 15 s; the other side still has the old session and takes part.
#[track_caller]
fn asks_again(asks: &Node, deaf: &Node) {
    join(asks, deaf);
    let (before, _) = settled(asks, deaf);
    // No answer arrives: the other side's answers go to a link-layer address that does not exist.
    let address = format!("192.0.2.{}", asks.number);
    deaf.host.ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:99 nud permanent dev eth0")).unwrap();
    let began = Instant::now();
    eventually("15 s of silence are noticed", || {
        assert!(!asks.probe_for(deaf.inner4(), Duration::from_millis(200)));
        (began.elapsed() > Duration::from_secs(19)).then_some(())
    });
    deaf.host.ip(&format!("neigh del {address} dev eth0")).unwrap();
    // Traffic is answered again, so that only a handshake that is already under way can be completed.
    eventually("a new handshake", || {
        asks.probe_for(deaf.inner4(), SECOND);
        (asks.handshake(deaf) > before).then_some(())
    });
    asks.reaches(deaf.inner4());
    deaf.reaches(asks.inner4());
}

#[test]
fn silence_makes_us_begin_a_handshake() {
    let switch = Switch::new();
    asks_again(&switch.node(1, Kind::Ours), &switch.node(2, Kind::WireguardGo));
}

#[test]
fn silence_makes_wireguard_go_begin_a_handshake() {
    let switch = Switch::new();
    asks_again(&switch.node(1, Kind::WireguardGo), &switch.node(2, Kind::Ours));
}

/// A peer that is to be kept alive gets an initiation as soon as it has an endpoint, before there is a packet for it. A peer that is not up yet is
/// reached soon after it starts, by its own initiation or by our quick retries.
#[test]
fn two_sides_find_each_other_at_once() {
    let switch = Switch::new();
    let (a, b, c) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours), switch.node(3, Kind::WireguardGo));
    let met = |a: &Node, b: &Node| {
        eventually("a handshake", || (a.handshake(b) > 0 && b.handshake(a) > 0).then_some(()));
    };
    let keep_alive = |node: &Node, peer: &Node| node.wg(&format!("peer {} persistent-keepalive 25", peer.public_key()));
    // Only one of the two can initiate: first the one that starts later, then the one that was up.
    b.add(&a, None, "");
    a.add(&b, Some(&b.outer4()), "");
    keep_alive(&a, &b);
    met(&a, &b);
    let (watch, sent) = (Watch::begin(), |node: &Node| -> u64 {
        a.shown("transfer", node).split_whitespace().nth(1).unwrap().parse().unwrap()
    });
    a.add(&c, Some(&c.outer4()), "");
    keep_alive(&a, &c);
    eventually("three quick retries", || (sent(&c) >= 3 * 148).then_some(()));
    let (took, _) = watch.end();
    assert!(took < Duration::from_secs(10), "{took:?}: with 5 s between them, not 250 and 500 ms");
    assert_eq!(a.handshake(&c), 0, "the peer is not up");
    c.add(&a, None, "");
    met(&a, &c);
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
        from.reaches(to.inner4());
    }
}
