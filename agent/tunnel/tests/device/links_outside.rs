//! Where no MTU is configured, the interface's MTU follows the links to the outside.

use mesh_tunnel::{DeviceUpdate, PeerUpdate, PublicKey};

use crate::lab::{Kind, Node, Switch, join};
use crate::patience::eventually;
use crate::streams::{exchange, transfer};

/// Bytes of a stream: many full-size packets.
const LEN: usize = 300_000;

fn mtu(node: &Node) -> u16 {
    node.device().snapshot().mtu
}

fn apply(node: &Node, peer: PeerUpdate) {
    node.device().apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
}

/// The public key of a peer that does not exist.
fn absent_peer() -> PeerUpdate {
    PeerUpdate::new(PublicKey::from_bytes([9; 32]))
}

fn absent_peer_at(endpoint: &str) -> PeerUpdate {
    PeerUpdate { endpoint: Some(endpoint.parse().unwrap()), ..absent_peer() }
}

#[test]
fn the_mtu_follows_a_link_whose_mtu_is_lowered() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), LEN);
    assert_eq!(mtu(&a), 1420);
    a.host.ip("link set eth0 mtu 1400").unwrap();
    // The device gets no notice: when the first packets that are too long for the link are lost, it checks the links. The other
    // node does not learn of it, so it must send only short packets by a connection whose MSS was announced before.
    exchange(&a.host, a.inner4(), &b.host, b.inner4(), [LEN, 0]);
    eventually("the MTU follows", || (mtu(&a) == 1320).then_some(()));
    assert_eq!(mtu(&b), 1420, "the MTU of its own link is unchanged");
    transfer(&b.host, b.inner6(), &a.host, a.inner6(), LEN);
}

#[test]
fn an_mtu_that_was_set_by_hand_stays() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    a.host.ip(&format!("link set {} mtu 1410", a.name)).unwrap();
    a.host.ip("link set eth0 mtu 1400").unwrap();
    apply(&a, absent_peer_at("192.0.2.77:9"));
    assert_eq!(mtu(&a), 1410);
}

#[test]
fn a_peer_behind_a_small_link_leaves_ipv6_and_lowers_the_mtu_only_while_it_exists() {
    let switch = Switch::new();
    let a = switch.node(1, Kind::Ours);
    a.host.ip("link add thin mtu 1000 type veth peer name thin-end").unwrap();
    for command in ["link set thin up", "link set thin-end up", "addr add 198.51.100.1/24 dev thin"] {
        a.host.ip(command).unwrap();
    }
    apply(&a, absent_peer_at("198.51.100.2:9"));
    assert_eq!(mtu(&a), 1280, "the least that IPv6 needs");
    assert!(a.host.ip(&format!("addr show dev {}", a.name)).unwrap().contains(&a.inner6().to_string()));
    apply(&a, PeerUpdate { remove: true, ..absent_peer() });
    assert_eq!(mtu(&a), 1420);
}

#[test]
fn the_interface_itself_is_no_link_to_the_outside() {
    let switch = Switch::new();
    let a = switch.node(1, Kind::Ours);
    for port in 1..20 {
        apply(&a, absent_peer_at(&format!("10.77.0.99:{port}")));
    }
    assert_eq!(mtu(&a), 1420);
}
