//! Whom a TLS handshake may let in: who is in the set, and until when.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{
    agent::{Intent, OnExpiry, OwnEndpoint, Policy, TlsMember},
    id::{TlsKey, WireguardKey},
    place::OwnPlace,
    registration::{NetworkType, Registration, SignedDomain, SignedGateway},
    status::{MembershipState, NodeKind},
};

use crate::{
    cluster::{GATEWAY, instance, registration, tls_key, token},
    world::{OWN, World, policy},
};

fn tls(id: u32) -> Registration {
    Registration {
        network_type: NetworkType::TlsGateway,
        wireguard_key: WireguardKey([0; 32]),
        tls_key: Some(tls_key(id)),
        endpoint: None,
        gateway: Some(SignedGateway::named(GATEWAY, 443)),
        ..registration(id)
    }
}

fn tls_policy() -> Policy {
    let place = Some(OwnPlace { domain: GATEWAY.parse().unwrap(), port: 443.try_into().unwrap() });
    Policy { place, endpoint: OwnEndpoint::None, ..policy() }
}

/// A TLS node (1), beside one of its kind (2), a WireGuard node with a TLS key (3) and one without (4).
fn world() -> World {
    let mut world = World::new();
    world.contract.bind(token(2), instance(2));
    assert!(world.contract.register(tls(2)));
    world.contract.bind(token(3), instance(3));
    assert!(world.contract.register(Registration { tls_key: Some(tls_key(3)), ..registration(3) }));
    world.join(4);
    world.faults.funded = true;
    world.restart_as(NetworkType::TlsGateway, tls_policy());
    world.run_until_idle();
    world.hint();
    world
}

fn members(world: &World) -> BTreeMap<TlsKey, TlsMember> {
    BTreeMap::clone(&world.agent.tls_members(world.now).members)
}

fn tokens(world: &World) -> Vec<u32> {
    let mut tokens: Vec<_> = members(world).values().map(|member| member.token.get()).collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn each_member_is_known_by_its_key_and_leaves_with_the_read_that_says_so() {
    let mut world = world();
    assert_eq!(tokens(&world), [OWN, 2, 3]);
    let all = members(&world);
    assert!(all[&tls_key(OWN)].is_own && !all[&tls_key(2)].is_own);
    let two = &all[&tls_key(2)];
    let place = two.place.as_ref().map(|place| (place.instance, place.port.get(), place.domain.as_str()));
    assert_eq!((two.kind, two.address, place), (NodeKind::Tls, None, Some((instance(2), 443, GATEWAY))));
    let three = &all[&tls_key(3)];
    assert_eq!((three.kind, three.address), (NodeKind::Wireguard, Some([10, 0, 1, 3].into())));

    world.contract.revoke(token(2));
    world.hint();
    assert_eq!(tokens(&world), [OWN, 3]);
    let rotated = Registration { tls_key: Some(tls_key(33)), key_epoch: 2, ..registration(3) };
    assert!(world.contract.register(rotated));
    world.hint();
    assert!(members(&world).contains_key(&tls_key(33)) && !members(&world).contains_key(&tls_key(3)));
    world.contract.revoke(token(OWN));
    world.hint();
    assert_eq!(tokens(&world), [0; 0], "a node that is no member knows none");
}

#[test]
fn nothing_is_let_in_by_a_view_that_has_expired() {
    let mut world = world();
    let at_first = world.agent.tls_members(world.now);
    world.faults.rpc_down = true;
    world.pass(Duration::from_secs(1));
    let until = world.agent.tls_members(world.now).expires_at.unwrap();
    assert_eq!(at_first.expires_at, Some(until), "a read that failed moves nothing");
    assert!(at_first.find(tls_key(2), until - Duration::from_millis(1)).is_some());
    assert!(at_first.find(tls_key(2), until).is_none(), "also for what has heard nothing since");
    world.pass(until - world.now.since_start + Duration::from_secs(1));
    assert_eq!(tokens(&world), [0; 0]);
    world.faults.rpc_down = false;
    world.hint();
    world.pass(Duration::from_secs(60));
    assert_eq!(tokens(&world), [OWN, 2, 3]);

    world.restart_with(Policy { on_expiry: OnExpiry::Static, ..tls_policy() });
    world.run_until_idle();
    assert_eq!(world.agent.tls_members(world.now).expires_at, None, "the operator keeps peers");
}

#[test]
fn a_wireguard_node_that_gets_a_tls_key_stays_a_peer_and_registers_again() {
    let mut world = World::mesh(&[3]);
    assert_eq!(tokens(&world), [0; 0], "without a key of its own it takes no part");
    world.own_tls_key = Some(tls_key(OWN));
    world.restart();
    world.run_until_idle();
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert!(world.status().verdict.ready, "{:?}", world.status());
    let Some(Intent::Register(offered)) = world.offered() else { panic!("{:?}", world.status()) };
    assert_eq!((offered.tls_key, offered.key_epoch), (Some(tls_key(OWN)), 2));
    assert_eq!(tokens(&world), [0; 0], "others do not know the key yet");
    assert!(world.submit());
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert_eq!((tokens(&world), world.offered()), (vec![OWN], None));
}

/// What a contract without TLS keys took is there after its upgrade: WireGuard nodes stay, TLS nodes register again.
#[test]
fn former_registrations_of_wireguard_nodes_hold_and_those_of_tls_nodes_wait_for_a_key() {
    let mut world = World::new();
    for id in [2, 3] {
        world.contract.bind(token(id), instance(id));
    }
    let gateway = Some(SignedGateway { domain: SignedDomain::Index(1), port: 443 });
    world.contract.register_formerly(Registration { gateway, ..registration(2) });
    world.contract.register_formerly(Registration { tls_key: None, gateway, ..tls(3) });
    world.contract.register_formerly(Registration { gateway, tls_key: None, ..tls(OWN) });
    world.faults.funded = true;
    world.restart_as(NetworkType::TlsGateway, tls_policy());
    world.run_until_idle();
    world.hint();
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Active, "it has registered again: {status:?}");
    let others: Vec<_> = status.other_peers.iter().map(|peer| (peer.token_id.get(), peer.kind)).collect();
    assert_eq!(others, [(2, NodeKind::Wireguard)]);
    let warning = status.warnings.iter().find(|warning| warning.code == "W403").unwrap();
    assert!(warning.message.contains("token 3") && warning.message.contains("no TLS key"), "{warning:?}");
    assert_eq!(tokens(&world), [OWN]);
    assert!(world.contract.register(Registration { key_epoch: 2, ..tls(3) }));
    world.hint();
    assert_eq!(tokens(&world), [OWN, 3]);
}
