//! The interface's MTU, where nobody gave one, follows the links to the outside.

use mesh_tunnel::{DeviceUpdate, PeerUpdate, PublicKey};

use crate::lab::{Kind, Node, Switch, join};
use crate::patience::eventually;
use crate::streams::{exchange, transfer};

/// Bytes of a stream: many full packets.
const LEN: usize = 300_000;

fn mtu(node: &Node) -> u16 {
    node.device().snapshot().mtu
}

fn apply(node: &Node, peer: PeerUpdate) {
    node.device().apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
}

/// A peer that nobody is.
fn stranger() -> PeerUpdate {
    PeerUpdate::new(PublicKey::from_bytes([9; 32]))
}

fn stranger_at(endpoint: &str) -> PeerUpdate {
    PeerUpdate { endpoint: Some(endpoint.parse().unwrap()), ..stranger() }
}

#[test]
fn a_link_that_becomes_narrow_carries_what_it_can() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), LEN);
    assert_eq!(mtu(&a), 1420);
    a.host.ip("link set eth0 mtu 1400").unwrap();
    // Nobody is told. The first packets that are too long for the link are lost, and the device looks. The other side would have to
    // be told: what comes back by a connection of before is short.
    exchange(&a.host, a.inner4(), &b.host, b.inner4(), [LEN, 0]);
    eventually("the MTU follows", || (mtu(&a) == 1320).then_some(()));
    assert_eq!(mtu(&b), 1420, "its own link is as wide as before");
    transfer(&b.host, b.inner6(), &a.host, a.inner6(), LEN);
}

#[test]
fn an_mtu_that_somebody_set_stays() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    a.host.ip(&format!("link set {} mtu 1410", a.name)).unwrap();
    a.host.ip("link set eth0 mtu 1400").unwrap();
    apply(&a, stranger_at("192.0.2.77:9"));
    assert_eq!(mtu(&a), 1410);
}

#[test]
fn a_peer_behind_a_narrow_link_takes_neither_ipv6_nor_the_mtu_for_ever() {
    let switch = Switch::new();
    let a = switch.node(1, Kind::Ours);
    a.host.ip("link add thin mtu 1000 type veth peer name thin-end").unwrap();
    for command in ["link set thin up", "link set thin-end up", "addr add 198.51.100.1/24 dev thin"] {
        a.host.ip(command).unwrap();
    }
    apply(&a, stranger_at("198.51.100.2:9"));
    assert_eq!(mtu(&a), 1280, "what IPv6 needs");
    assert!(a.host.ip(&format!("addr show dev {}", a.name)).unwrap().contains(&a.inner6().to_string()));
    apply(&a, PeerUpdate { remove: true, ..stranger() });
    assert_eq!(mtu(&a), 1420);
}

#[test]
fn the_interface_itself_is_no_link_to_the_outside() {
    let switch = Switch::new();
    let a = switch.node(1, Kind::Ours);
    for port in 1..20 {
        apply(&a, stranger_at(&format!("10.77.0.99:{port}")));
    }
    assert_eq!(mtu(&a), 1420);
}
