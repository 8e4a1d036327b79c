//! Every kind of bad member, left out alone.

use std::net::SocketAddr;

use mesh_core::{
    desired::{Confirmations, OwnDevice, select},
    id::WireguardKey,
    member::{EndpointFlaw, Flaw, Surroundings, sift},
    proof::VerifiedPeer,
    registration::{NetworkType, Registration, SignedGateway},
};

use crate::cluster::{Cluster, endpoint, key, member_key, network, registration, token};

#[test]
fn ordinary_peers_are_members_with_their_tokens_address() {
    let peers = peers([registration(3), registration(2), registration(1)]);
    let (members, flawed) = sift(&peers, &around());
    assert!(flawed.is_empty(), "{flawed:?}");
    let got: Vec<_> = members.iter().map(|member| (member.peer.token(), member.address.to_string())).collect();
    assert_eq!(got, [(token(2), "10.0.1.2".to_owned()), (token(3), "10.0.1.3".to_owned())], "own token 1 is no peer");
}

#[test]
fn gateway_only_peers_have_no_place_on_the_device() {
    let gateway = Some(SignedGateway::named(crate::cluster::GATEWAY, 443));
    let tls = Registration {
        network_type: NetworkType::TlsGateway,
        wireguard_key: WireguardKey([0; 32]),
        tls_key: Some(crate::cluster::tls_key(2)),
        endpoint: None,
        gateway,
        ..registration(2)
    };
    let peers = peers([tls]);
    let (members, flawed) = sift(&peers, &around());
    assert!(members.is_empty() && flawed.is_empty());
}

#[test]
fn keys_that_are_no_secret_are_left_out() {
    let little = |low: u8| {
        let mut bytes = [0; 32];
        bytes[0] = low;
        bytes
    };
    let near_p = |low: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (low, 0x7f);
        bytes
    };
    let order_eight = |digits: &str| <[u8; 32]>::try_from(hex::decode(digits).unwrap()).unwrap();
    let low_order = [
        little(0),
        little(1),
        order_eight("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        order_eight("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        near_p(0xec),
        near_p(0xed),
        near_p(0xee),
    ];
    for bytes in low_order {
        let mut with_top_bit = bytes;
        with_top_bit[31] |= 0x80;
        let plain = if bytes == [0; 32] { Flaw::ZeroKey } else { Flaw::LowOrderKey };
        assert_eq!(flaw_of_key(bytes), Some(plain), "{}", hex::encode(bytes));
        assert_eq!(flaw_of_key(with_top_bit), Some(Flaw::LowOrderKey), "{}", hex::encode(with_top_bit));
    }
    let mut spelled_otherwise = key(4).0;
    spelled_otherwise[31] |= 0x80;
    assert_eq!(flaw_of_key(spelled_otherwise), Some(Flaw::NonCanonicalKey));
    assert_eq!(flaw_of_key(near_p(0xef)), Some(Flaw::NonCanonicalKey), "p + 2");
    assert_eq!(flaw_of_key(near_p(0xeb)), None, "p - 2");
    assert_eq!(flaw_of_key(key(1).0), Some(Flaw::OwnKey));
    assert_eq!(flaw_of_key(key(4).0), None);
}

#[test]
fn the_lowest_token_keeps_a_key() {
    let copy = |id| Registration { wireguard_key: key(2), ..registration(id) };
    let peers = peers([copy(5), registration(2), copy(3)]);
    let (members, flawed) = sift(&peers, &around());
    assert_eq!(members.iter().map(|member| member.peer.token()).collect::<Vec<_>>(), [token(2)]);
    assert_eq!(flawed, [(token(3), Flaw::DuplicateKey(token(2))), (token(5), Flaw::DuplicateKey(token(2)))]);
}

#[test]
fn endpoints_no_single_peer_can_have_are_left_out() {
    let cases = [
        ("192.0.2.7:1", None),
        ("10.0.2.7:1", None),
        ("[2001:db8::7]:1", None),
        ("127.0.0.1:1", Some(EndpointFlaw::Loopback)),
        ("127.255.0.9:1", Some(EndpointFlaw::Loopback)),
        ("[::1]:1", Some(EndpointFlaw::Loopback)),
        ("[::ffff:127.0.0.1]:1", Some(EndpointFlaw::Loopback)),
        ("224.0.0.1:1", Some(EndpointFlaw::Multicast)),
        ("[ff02::1]:1", Some(EndpointFlaw::Multicast)),
        ("255.255.255.255:1", Some(EndpointFlaw::Broadcast)),
        ("0.0.0.0:1", Some(EndpointFlaw::Unspecified)),
        ("0.1.2.3:1", Some(EndpointFlaw::Unspecified)),
        ("[::]:1", Some(EndpointFlaw::Unspecified)),
        ("192.0.2.7:0", Some(EndpointFlaw::Unspecified)),
        ("[fe80::1]:1", Some(EndpointFlaw::LinkLocal)),
        ("10.0.1.9:51821", Some(EndpointFlaw::InsideMesh)),
        ("[::ffff:10.0.1.9]:51821", Some(EndpointFlaw::InsideMesh)),
        ("192.0.2.1:51821", Some(EndpointFlaw::Own)),
        ("[::ffff:192.0.2.1]:51821", Some(EndpointFlaw::Own)),
        ("192.0.2.1:51822", None),
    ];
    for (text, flaw) in cases {
        let endpoint: SocketAddr = text.parse().unwrap();
        let peers = peers([Registration { endpoint: Some(endpoint), ..registration(3) }]);
        let (members, flawed) = sift(&peers, &around());
        match flaw {
            None => assert_eq!((members.len(), flawed.as_slice()), (1, &[][..]), "{text}"),
            Some(expected) => {
                assert!(members.is_empty(), "{text}");
                assert!(matches!(flawed[..], [(_, Flaw::Endpoint(_, got))] if got == expected), "{text}: {flawed:?}");
            }
        }
    }
}

#[test]
fn tokens_the_contract_does_not_mint_are_left_out() {
    let outside = Registration { token: token(255), endpoint: None, ..registration(200) };
    assert_eq!(flaw_of(outside), Some(Flaw::TokenOutsideNetwork));
}

#[test]
fn a_place_behind_a_gateway_is_no_reason_to_be_left_out() {
    for port in [1, 443, 65535] {
        let gateway = Some(SignedGateway::named(crate::cluster::GATEWAY, port));
        assert_eq!(flaw_of(Registration { gateway, ..registration(7) }), None);
    }
}

#[test]
fn one_bad_member_takes_no_other_with_it() {
    let bad = Registration { wireguard_key: WireguardKey([0; 32]), ..registration(3) };
    let peers = peers([registration(2), bad, registration(4)]);
    let selection = select(&peers, &around(), own(), Confirmations { head: 10, need: 0 });
    assert_eq!(selection.device.peers.iter().map(|peer| peer.token).collect::<Vec<_>>(), [token(2), token(4)]);
    assert_eq!(selection.flawed, [(token(3), Flaw::ZeroKey)]);
}

#[test]
fn additions_wait_for_their_confirmations() {
    let peers = peers([registration(2)]); // registered in block 10
    for (head, need, waits) in
        [(10, 0, false), (9, 0, false), (10, 1, true), (11, 1, false), (12, 3, true), (13, 3, false)]
    {
        let selection = select(&peers, &around(), own(), Confirmations { head, need });
        assert_eq!(!selection.waiting.is_empty(), waits, "head {head}, {need} confirmations");
        assert_eq!(selection.device.peers.is_empty(), waits);
    }
}

#[test]
fn only_peers_of_the_own_app_get_a_preshared_key() {
    let peers = peers([registration(2)]);
    let confirmations = Confirmations { head: 10, need: 0 };
    let with =
        |app_id| select(&peers, &around(), OwnDevice { app_id, ..own() }, confirmations).device.peers[0].preshared_with;
    assert_eq!(with(Cluster::new().app_id), Some(member_key(2)));
    assert_eq!(with(mesh_core::id::AppId([0x22; 20])), None);
}

fn flaw_of_key(bytes: [u8; 32]) -> Option<Flaw> {
    flaw_of(Registration { wireguard_key: WireguardKey(bytes), ..registration(7) })
}

fn flaw_of(registration: Registration) -> Option<Flaw> {
    let peers = peers([registration]);
    let (members, flawed) = sift(&peers, &around());
    assert_eq!(members.len() + flawed.len(), 1);
    flawed.first().map(|(_, flaw)| *flaw)
}

fn peers<const N: usize>(registrations: [Registration; N]) -> Vec<VerifiedPeer> {
    let cluster = Cluster::new();
    registrations.into_iter().map(|registration| cluster.peer(registration)).collect()
}

fn around() -> Surroundings {
    Surroundings { network: network(), own_token: Some(token(1)), own_key: key(1), own_endpoints: vec![endpoint(1)] }
}

fn own() -> OwnDevice {
    OwnDevice { address: "10.0.1.1".parse().unwrap(), listen_port: 51821, keepalive: 25, app_id: Cluster::new().app_id }
}
