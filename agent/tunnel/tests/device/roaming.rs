//! Addresses outside that change while a session runs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use mesh_tunnel::PrivateKey;
use zeroize::Zeroizing;

use crate::lab::{Kind, Node, PORT, Switch, join, settled};
use crate::patience::{DEADLINE, eventually, uninterrupted};

/// The other side moves. Its next datagram shows its new address, the answer is sent there too, and after a round trip the endpoint
/// is moved. When it moves again soon, its addresses may alternate: the endpoint follows when it was silent for some time. wireguard-go
/// does not recover when its address is removed, so it only changes its port, as a NAT would.
#[test]
fn a_peer_may_move() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        for port in [5999, PORT] {
            them.listens_at(port);
            if port != PORT {
                them.is_answered_at_once(&us, format!("port {port}"));
            }
            us.believes(&them, &format!("192.0.2.{number}:{port}"));
            assert!(us.probe(them.inner4()));
        }
        let (ours, address) = ([(&us, &them), (&them, &us)], |last: u8| format!("192.0.2.{last}/24"));
        for (moves, stays) in ours.into_iter().take(if kind == Kind::Ours { 2 } else { 1 }) {
            let (old, new) = (moves.number, 100 + 10 * number + moves.number);
            for (old, new) in [(old, new), (new, old)] {
                replace(moves, &address(old), &address(new));
                // The other one has changed its port before.
                if moves.number == us.number && new != moves.number {
                    moves.is_answered_at_once(stays, address(new));
                }
                stays.believes(moves, &format!("192.0.2.{new}:{PORT}"));
                assert!(stays.probe(moves.inner4()));
            }
        }
    }
}

#[test]
fn an_endpoint_switches_between_families() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        for _ in 0..2 {
            for (ours, theirs) in [(us.outer6(), them.outer6()), (us.outer4(), them.outer4())] {
                eventually(format!("both are where {theirs} is"), || {
                    // Repeated: on a machine that stalls, an answer by the previous address may arrive late and move it back.
                    if us.shown("endpoints", &them) != theirs {
                        us.wg(&format!("peer {} endpoint {theirs}", them.public_key()));
                        us.is_answered_at_once(&them, &ours);
                    }
                    let answered = us.probe_for(them.inner4(), Duration::from_secs(1));
                    let seen = (us.shown("endpoints", &them), them.shown("endpoints", &us));
                    (answered && seen == (theirs.clone(), ours.clone())).then_some(())
                });
            }
        }
    }
}

/// Answers leave from the address that the other side sent to: otherwise it would learn another endpoint.
#[test]
fn replies_leave_from_the_address_that_was_asked() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    us.host.ip("link add dummy0 type bridge").unwrap();
    us.host.ip("link set dummy0 up").unwrap();
    us.host.ip("addr add 192.0.2.201/24 dev eth0").unwrap();
    us.host.ip("addr add 198.51.100.1/32 dev dummy0").unwrap();
    us.host.ip("addr add 2001:db8::201/64 dev eth0 nodad").unwrap();
    us.host.ip("addr add 2001:db8:1::1/128 dev dummy0 nodad").unwrap();
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        them.host.ip("route add 198.51.100.1/32 via 192.0.2.1").unwrap();
        them.host.ip("route add 2001:db8:1::1/128 via 2001:db8::1").unwrap();
        for asked in ["192.0.2.201", "198.51.100.1", "[2001:db8::201]", "[2001:db8:1::1]"] {
            let endpoint = format!("{asked}:{PORT}");
            // A new handshake, its answers and data all leave from there.
            meet_anew(&us, &them, &endpoint);
            for _ in 0..3 {
                assert!(them.probe(us.inner4()) && us.probe(them.inner4()));
                assert_eq!(them.shown("endpoints", &us), endpoint);
            }
        }
    }
}

/// Removes all state between the nodes. The second then initiates to the first at that address, and neither knows another address
/// of the other: with several, any of them could be used.
#[track_caller]
fn meet_anew(us: &Node, them: &Node, endpoint: &str) {
    us.wg(&format!("peer {} remove", them.public_key()));
    us.add(them, None, "");
    them.wg(&format!("peer {} remove", us.public_key()));
    them.add(us, Some(endpoint), "");
    them.reaches(us.inner4());
}

fn replace(node: &Node, old: &str, new: &str) {
    node.host.ip(&format!("addr del {old} dev eth0")).unwrap();
    node.host.ip(&format!("addr add {new} dev eth0 nodad")).unwrap();
    // The kernel joins the multicast group of an IPv6 address (neighbour discovery) a moment later; until then it cannot be
    // reached.
    if let Some((_, last)) = new.split_once("::") {
        let group = format!("ff02::1:ff00:{}", last.split('/').next().unwrap());
        let joined = || node.host.ip("-6 maddr show dev eth0").unwrap().split_whitespace().any(|word| word == group);
        eventually(format!("{group} is joined"), || joined().then_some(()));
    }
}

/// Our answers left from an address that has been removed: the next packet leaves from another.
#[test]
fn a_removed_local_address_is_given_up_at_once() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::WireguardGo), (3, Kind::Ours)] {
        let them = switch.node(number, kind);
        for (asked, old, new, now) in [
            ("192.0.2.1", "192.0.2.1/24", "192.0.2.111/24", "192.0.2.111"),
            ("[2001:db8::1]", "2001:db8::1/64", "2001:db8::111/64", "[2001:db8::111]"),
        ] {
            let [asked, now] = [asked, now].map(|address| format!("{address}:{PORT}"));
            meet_anew(&us, &them, &asked);
            assert!(us.probe(them.inner4()));
            assert_eq!(them.shown("endpoints", &us), asked, "the answer comes from the address that was asked");
            replace(&us, old, new);
            us.is_answered_at_once(&them, new);
            them.believes(&us, &now);
            // So soon after that, the endpoint follows when it was silent for some time.
            replace(&us, new, old);
            them.believes(&us, &asked);
        }
    }
}

/// A member that sends to our port through another member's tunnel is ignored: its endpoint would be inside the tunnel, and packets
/// to it would be sealed, routed into the tunnel and sealed again, without end.
#[test]
fn no_endpoint_moves_into_the_tunnel() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&us, &them);
    // Late messages of a first handshake are refused as well.
    settled(&us, &them);
    let key = PrivateKey::from_bytes(Zeroizing::new([3; 32])).public_key();
    let of_key = || us.device().snapshot().peers.into_iter().find(|peer| peer.public_key == key).unwrap();
    let refused = || us.device().snapshot().drops.unauthenticated;
    let socket = |address: &str| {
        let socket = them.host.within(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    for (outer, inner) in [("192.0.2", "10.77.0"), ("2001:db8::", "fd77::")] {
        let address = |prefix: &str, number| {
            if prefix.ends_with(':') { format!("{prefix}{number}") } else { format!("{prefix}.{number}") }
        };
        let to = |prefix| SocketAddr::new(address(prefix, 1).parse().unwrap(), PORT);
        let (outside, inside) = (socket(&address(outer, 2)), socket(&address(inner, 2)));

        // Outside the tunnel it is accepted, for a member without an endpoint yet.
        us.wg(&format!("peer {key} remove"));
        us.wg(&format!("peer {key} allowed-ips 10.77.0.3/32"));
        let (mut tunn, mut buffer, mut reply) =
            (Tunn::new([3; 32].into(), (*us.public_key().as_bytes()).into(), None, None, 1, None), [0; 256], [0; 256]);
        let TunnResult::WriteToNetwork(initiation) = tunn.format_handshake_initiation(&mut buffer, true) else {
            panic!()
        };
        outside.send_to(initiation, to(outer)).unwrap();
        let len = uninterrupted(|| outside.recv(&mut reply)).unwrap();
        let TunnResult::WriteToNetwork(keepalive) = tunn.decapsulate(None, &reply[..len], &mut buffer) else {
            panic!()
        };
        outside.send_to(keepalive, to(outer)).unwrap();
        let endpoint = Some(outside.local_addr().unwrap());
        eventually("the member's endpoint is known", || (of_key().endpoint == endpoint).then_some(()));

        // Inside, neither a session's datagram nor a handshake is accepted.
        let (before, received) = (refused(), of_key().rx_bytes);
        let TunnResult::WriteToNetwork(sealed) = tunn.encapsulate(&[], &mut buffer) else { panic!() };
        inside.send_to(sealed, to(inner)).unwrap();
        eventually("the datagram is refused", || (refused() == before + 1).then_some(()));
        let TunnResult::WriteToNetwork(initiation) = tunn.format_handshake_initiation(&mut buffer, true) else {
            panic!()
        };
        inside.send_to(initiation, to(inner)).unwrap();
        eventually("the handshake is refused", || (refused() == before + 2).then_some(()));
        let peer = of_key();
        assert_eq!((peer.endpoint, peer.rx_bytes), (endpoint, received));
    }
}
