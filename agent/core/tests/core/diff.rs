//! Tables of the diff: minimal, sorted, idempotent, removals first.

use std::{net::SocketAddr, time::Duration};

use mesh_core::{
    desired::{Desired, DesiredDevice, DesiredPeer},
    diff::{Change, diff, teardown},
    network::MeshNetwork,
    observed::{Observed, ObservedDevice, ObservedPeer},
};

use crate::cluster::{Cluster, endpoint, key, member_key, network, token};

#[test]
fn nothing_becomes_everything_in_order() {
    let wanted = desired(&[2, 3]);
    let device = wanted.device.clone().unwrap();
    let expected = [
        Change::AddGuardRoute(network()),
        Change::SetGuardTable(network()),
        Change::CreateDevice { address: device.address, network: network(), listen_port: 51821 },
        Change::AddPeer(peer(2)),
        Change::AddPeer(peer(3)),
    ];
    assert_eq!(diff(&wanted, &Observed::default()), expected);
}

#[test]
fn what_is_as_it_should_be_is_not_mentioned() {
    assert_eq!(diff(&desired(&[2, 3]), &observed(&[2, 3])), []);
    assert_eq!(diff(&Desired::default(), &Observed::default()), []);
    assert_eq!(diff(&Desired::default(), &guard_only()), [], "the guard is kept");
}

#[test]
fn removals_come_before_edits_before_additions() {
    let mut present = observed(&[2, 3, 4]);
    present.device.as_mut().unwrap().peers[0].persistent_keepalive = 9;
    let changes = diff(&desired(&[2, 5]), &present);
    let mut removed = [key(3), key(4)];
    removed.sort();
    let kinds: Vec<_> = changes.iter().map(Change::kind).collect();
    assert_eq!(kinds, ["remove_peer", "remove_peer", "edit_peer", "add_peer"]);
    assert_eq!(changes[..2], removed.map(Change::RemovePeer));
    assert_eq!(changes[3], Change::AddPeer(peer(5)));
    assert_eq!(changes[2].to_string(), format!("edit peer {} (token 2): keepalive 25 s", key(2)));
}

#[test]
fn nothing_that_may_fail_comes_before_a_removal() {
    let mut present = observed(&[2, 3]);
    (present.guard_route, present.guard_table) = (None, None);
    present.device.as_mut().unwrap().up = false;
    let kinds: Vec<_> = diff(&desired(&[2, 5]), &present).iter().map(Change::kind).collect();
    assert_eq!(kinds, ["remove_peer", "add_guard_route", "set_guard_table", "set_address", "add_peer"]);
    let out = Desired { guard_route: Some(network()), guard_table: true, device: None };
    let kinds: Vec<_> = diff(&out, &present).iter().map(Change::kind).collect();
    assert_eq!(kinds, ["remove_device", "add_guard_route", "set_guard_table"]);
}

#[test]
fn only_the_field_that_differs_is_edited() {
    type Spoil = fn(&mut ObservedPeer);
    let cases: [(&str, Spoil); 8] = [
        (" keepalive 25 s", |peer| peer.persistent_keepalive = 0),
        (" preshared key set", |peer| peer.has_preshared_key = false),
        // Another member has taken the WireGuard key over, or an earlier process has set it.
        (" preshared key set", |peer| peer.preshared_with = Some(member_key(9))),
        (" preshared key set", |peer| peer.preshared_with = None),
        (" address 10.0.1.2", |peer| peer.allowed_ips.clear()),
        (" address 10.0.1.2", |peer| peer.allowed_ips.push("10.0.1.9/32".parse().unwrap())),
        (" address 10.0.1.2", |peer| peer.allowed_ips = vec!["10.0.1.0/24".parse().unwrap()]),
        (" endpoint 192.0.2.2:51821", |peer| peer.endpoint = None),
    ];
    for (expected, spoil) in cases {
        let mut present = observed(&[2, 3]);
        spoil(&mut present.device.as_mut().unwrap().peers[0]);
        let changes = diff(&desired(&[2, 3]), &present);
        let text: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(text, [format!("edit peer {} (token 2):{expected}", key(2))]);
    }
}

#[test]
fn a_live_session_keeps_the_endpoint_it_roamed_to() {
    let roamed: SocketAddr = "198.51.100.9:4242".parse().unwrap();
    for (received_age, edits) in [(Some(0), 0), (Some(180), 0), (Some(181), 1), (None, 1)] {
        let mut present = observed(&[2]);
        let on_device = &mut present.device.as_mut().unwrap().peers[0];
        on_device.endpoint = Some(roamed);
        on_device.received_age = received_age.map(Duration::from_secs);
        assert_eq!(diff(&desired(&[2]), &present).len(), edits, "heard {received_age:?}");
    }
    // Nothing to say: a peer without a registered endpoint may be anywhere.
    let mut wanted = desired(&[2]);
    wanted.device.as_mut().unwrap().peers[0].endpoint = None;
    assert_eq!(diff(&wanted, &observed(&[2])), []);
    // The device's way of writing IPv4 in IPv6 is no difference.
    let mut present = observed(&[2]);
    let on_device = &mut present.device.as_mut().unwrap().peers[0];
    (on_device.endpoint, on_device.received_age) = (Some("[::ffff:192.0.2.2]:51821".parse().unwrap()), None);
    assert_eq!(diff(&desired(&[2]), &present), []);
}

#[test]
fn a_device_with_another_key_or_port_is_created_again() {
    type Spoil = fn(&mut ObservedDevice);
    let cases: [Spoil; 3] =
        [|device| device.public_key = Some(key(9)), |device| device.public_key = None, |device| device.listen_port = 1];
    for spoil in cases {
        let mut present = observed(&[2]);
        spoil(present.device.as_mut().unwrap());
        let kinds: Vec<_> = diff(&desired(&[2]), &present).iter().map(Change::kind).collect();
        assert_eq!(kinds, ["remove_device", "create_device", "add_peer"]);
    }
}

#[test]
fn an_interface_that_is_down_or_wrongly_addressed_is_set_right() {
    type Spoil = fn(&mut ObservedDevice);
    let cases: [Spoil; 3] = [
        |device| device.up = false,
        |device| device.address = None,
        |device| device.address = Some([10, 0, 1, 99].into()),
    ];
    for spoil in cases {
        let mut present = observed(&[2]);
        spoil(present.device.as_mut().unwrap());
        let expected = Change::SetAddress { address: [10, 0, 1, 1].into(), network: network() };
        assert_eq!(diff(&desired(&[2]), &present), [expected]);
    }
}

#[test]
fn leaving_and_stopping_keep_the_guard() {
    let out = Desired { guard_route: Some(network()), guard_table: true, device: None };
    assert_eq!(diff(&out, &observed(&[2])), [Change::RemoveDevice]);
    assert_eq!(teardown(&observed(&[2])), [Change::RemoveDevice]);
    assert_eq!(teardown(&guard_only()), []);
    assert_eq!(teardown(&Observed::default()), []);
}

#[test]
fn the_guard_is_whole_for_one_network_alone() {
    let wanted = desired(&[2]);
    let other = MeshNetwork::new([10, 9, 0, 0].into(), 16).unwrap();
    // What was assumed to be the mesh network before the contract was read: the device comes last.
    let guessed = Observed { guard_table: Some(other), stale_guard_route: Some(other), ..Observed::default() };
    let kinds: Vec<_> = diff(&wanted, &guessed).iter().map(Change::kind).collect();
    assert_eq!(kinds, ["add_guard_route", "remove_guard_route", "set_guard_table", "create_device", "add_peer"]);
    assert_eq!(diff(&wanted, &guessed)[1], Change::RemoveGuardRoute(other));
    // An observation that was made for another network says nothing of this one.
    let late = Observed { guard_route: Some(other), guard_table: Some(other), ..observed(&[2]) };
    assert_eq!(diff(&wanted, &late), [Change::AddGuardRoute(network()), Change::SetGuardTable(network())]);
    // Without nf_tables there is the route alone; a table that is there for others is not looked at.
    let route_only = Desired { guard_table: false, ..desired(&[2]) };
    assert_eq!(diff(&route_only, &Observed { guard_table: None, ..observed(&[2]) }), []);
    assert_eq!(diff(&route_only, &Observed { guard_table: Some(other), ..observed(&[2]) }), []);
}

fn desired(ids: &[u32]) -> Desired {
    Desired {
        guard_route: Some(network()),
        guard_table: true,
        device: Some(DesiredDevice {
            public_key: key(1),
            listen_port: 51821,
            address: [10, 0, 1, 1].into(),
            network: network(),
            peers: ids.iter().map(|id| peer(*id)).collect(),
        }),
    }
}

fn peer(id: u32) -> DesiredPeer {
    DesiredPeer {
        token: token(id),
        public_key: key(id),
        address: network().address_of(token(id)).unwrap(),
        endpoint: Some(endpoint(id)),
        preshared_with: Some(member_key(id)),
        app_id: Cluster::new().app_id,
        persistent_keepalive: 25,
    }
}

fn guard_only() -> Observed {
    Observed { guard_route: Some(network()), guard_table: Some(network()), ..Observed::default() }
}

fn observed(ids: &[u32]) -> Observed {
    let peers = ids.iter().map(|id| ObservedPeer {
        public_key: key(*id),
        endpoint: Some(endpoint(*id)),
        allowed_ips: vec![format!("10.0.1.{id}/32").parse().unwrap()],
        has_preshared_key: true,
        preshared_with: Some(member_key(*id)),
        persistent_keepalive: 25,
        handshake_age: Some(Duration::from_secs(5)),
        received_age: Some(Duration::from_secs(1)),
        sent_age: None,
        rx_bytes: 0,
        tx_bytes: 0,
    });
    let device = ObservedDevice {
        public_key: Some(key(1)),
        listen_port: 51821,
        mtu: 1420,
        up: true,
        address: Some([10, 0, 1, 1].into()),
        peers: peers.collect(),
        userspace: None,
    };
    Observed { device: Some(device), ..guard_only() }
}
