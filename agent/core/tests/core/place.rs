//! Places behind the gateway: names made of the contract's base domains, and nodes of both kinds that register theirs.

use std::{num::NonZeroU16, time::Duration};

use mesh_core::{
    agent::{Allowed, Intent, OnExpiry, OwnEndpoint, Policy},
    freshness::Deadlines,
    id::{InstanceId, WireguardKey},
    place::{Domain, OwnPlace, domain_of, url},
    registration::{Gateway, NetworkType, Registration, SignedGateway},
    status::{MembershipState, NodeKind, OtherPeer, VerdictState},
};
use proptest::prelude::*;

use crate::{
    cluster::{GATEWAY, endpoint, instance, key, registration, tls_key, token},
    world::{OWN, World, policy},
};

#[test]
fn domains_are_what_the_contract_takes() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(13));
    assert_eq!(longest.len(), 205);
    for good in ["gw.test", "dstack-pha-prod5.phala.network", "0.x1", "a.b.c.d", &longest] {
        let domain: Domain = good.parse().unwrap();
        assert_eq!((domain.as_str(), domain.host(), domain.port().get()), (good, good, 443));
    }
    for port in [1, 80, 442, 444, 8443, 65535] {
        for host in ["gw.test", &longest] {
            let text = format!("{host}:{port}");
            let domain: Domain = text.parse().unwrap();
            assert_eq!((domain.as_str(), domain.host(), domain.port().get()), (text.as_str(), host, port));
        }
    }
    let (too_long, long_label) = (format!("{longest}b"), format!("{}.com", "a".repeat(64)));
    for bad in [
        "",
        "com",
        ".com",
        "a.",
        "a..b",
        "-a.b",
        "a-.b",
        "a.b-",
        "A.b",
        "a_b.c",
        "a.b:443",
        "https://a.b",
        "a.1",
        "10.0.0.1",
        "a.b.",
        "*.a.b",
        "a b.c",
        "ä.de",
        "a.b/c",
        "x@a.b",
        "a.b:",
        "a.b:0",
        "a.b:65536",
        "a.b:4294967739",
        "a.b:08443",
        "a.b:+80",
        "a.b: 80",
        "a.b:8443 ",
        "a.b:8443:1",
        "a.b:8443/",
        "a.b:https",
        ":8443",
        "A.b:8443",
        "a.b.:8443",
        "x@a.b:8443",
        "10.0.0.1:8443",
        "[a.b]:8443",
        "[2001:db8::1]",
        "[2001:db8::1]:8443",
        "2001:db8::1",
        "a.b:８443",
        &too_long,
        &long_label,
    ] {
        assert!(bad.parse::<Domain>().is_err(), "{bad}");
    }
}

#[test]
fn a_url_names_instance_port_and_domain() {
    let texts =
        [Some("gw.example"), None, Some("https://evil.example/#"), Some("gw.example:9443"), Some("gw.example:443")];
    let domains = texts.map(|text| text.map(str::to_owned));
    let of = |domain, port| url(instance(7), Gateway { domain, port }, &domains);
    assert_eq!(of(1, 8443).unwrap(), format!("https://{}-8443s.gw.example", "07".repeat(20)));
    assert_eq!(of(2, 443), None, "removed");
    assert_eq!(of(3, 443), None, "an endpoint that invents domains gets no node to connect there");
    assert_eq!(of(4, 443).unwrap(), format!("https://{}-443s.gw.example:9443", "07".repeat(20)), "the gateway's port");
    assert_eq!(of(5, 443), None, "a second spelling of the first");
    assert_eq!((of(6, 443), of(0, 443)), (None, None), "never added");
}

proptest! {
    /// Whatever an endpoint says: what is made of it is a host name with nothing else in it.
    #[test]
    fn every_url_is_https_to_a_host_of_that_instance(
        id: [u8; 20], domain in 0..5u16, port: NonZeroU16, said in proptest::collection::vec(
            proptest::option::of(prop_oneof![".{0,40}", "[a-z0-9]{1,63}(\\.[a-z]{1,20}){1,5}(:[0-9]{1,5})?"]), 0..5),
    ) {
        let gateway = Gateway { domain, port: port.get() };
        let listed = usize::from(domain).checked_sub(1).and_then(|index| said.get(index)).cloned().flatten();
        match url(InstanceId(id), gateway, &said) {
            None => prop_assert!(listed.is_none_or(|listed| listed.parse::<Domain>().is_err())),
            Some(url) => {
                let authority = url.strip_prefix("https://").unwrap();
                let (host, port_of_gateway) = authority.split_once(':').unwrap_or((authority, "443"));
                prop_assert!(port_of_gateway.parse::<NonZeroU16>().is_ok());
                prop_assert!(host.len() <= 253 && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c)));
                let (label, rest) = authority.split_once('.').unwrap();
                prop_assert_eq!(label, format!("{}-{port}s", InstanceId(id)));
                prop_assert_eq!(Some(rest.to_owned()), listed);
            }
        }
        let own = said.iter().flatten().find_map(|domain| domain.parse::<Domain>().ok());
        if let Some(domain) = own {
            let gateway = OwnPlace { domain: domain.clone(), port }.gateway(&said).unwrap();
            prop_assert_eq!(domain_of(gateway, &said), Some(domain));
        }
    }
}

fn place(domain: &str, port: u16) -> Option<OwnPlace> {
    Some(OwnPlace { domain: domain.parse().unwrap(), port: NonZeroU16::new(port).unwrap() })
}

/// A WireGuard node's place for streams.
fn with_place(domain: &str) -> Policy {
    Policy { place: place(domain, 51822), ..policy() }
}

fn gateway(domain: u16, port: u16) -> Option<Gateway> {
    Some(Gateway { domain, port })
}

/// A place below the first base domain, as a node signs it.
fn signed(port: u16) -> Option<SignedGateway> {
    Some(SignedGateway::named(GATEWAY, port))
}

fn has_warning(world: &World, code: &str) -> bool {
    world.status().warnings.iter().any(|warning| warning.code == code)
}

#[test]
fn a_wireguard_node_registers_its_place() {
    let mut world = World::new();
    world.restart_with(with_place("gw.example"));
    world.run_until_idle();
    assert!(
        matches!(world.offered(), Some(Intent::Register(offered)) if offered.gateway == signed(51822)
            && offered.endpoint == Some(endpoint(OWN)) && offered.network_type == NetworkType::Wireguard),
        "{:?}",
        world.offered()
    );
    assert!(world.submit());
    world.hint();
    world.pass(Duration::from_secs(60));
    assert_eq!((world.offered(), world.status().verdict.state), (None, VerdictState::Ok), "{:?}", world.status());
}

/// Another port of the same host is another gateway.
#[test]
fn a_place_is_under_the_domain_with_its_port() {
    let mut world = World::new();
    world.restart_with(with_place("gw.example:8443"));
    world.run_until_idle();
    assert!(has_warning(&world, "W109"), "the contract lists gw.example alone");
    world.contract.add_domain("gw.example:8443");
    world.hint();
    world.hint();
    assert!(
        matches!(world.offered(), Some(Intent::Register(offered)) if offered.gateway == Some(SignedGateway::named("gw.example:8443", 51822))),
        "{:?}",
        world.offered()
    );
}

#[test]
fn an_unlisted_domain_is_reported_and_used_once_it_is_listed() {
    let mut world = World::mesh(&[2]);
    world.restart_with(with_place("other.example"));
    world.run_until_idle();
    assert_eq!(world.offered(), None);
    let status = world.status();
    let warning = status.warnings.iter().find(|warning| warning.code == "W109").unwrap();
    assert!(warning.message.contains("other.example"), "{warning:?}");
    let command = format!("meshctl domain add other.example --contract {}", status.registry.contract);
    assert_eq!(warning.hint.as_ref(), Some(&command));
    assert!(status.verdict.ready, "UDP works all the same");

    let index = world.contract.add_domain("other.example");
    world.faults.funded = true;
    world.hint();
    world.hint();
    let own = world.contract.read(instance(OWN), None).peers[0].clone();
    assert_eq!((own.gateway, own.endpoint), (gateway(index, 51822), Some(endpoint(OWN))));
    assert_eq!((world.offered(), has_warning(&world, "W109")), (None, false));
}

#[test]
fn a_domain_that_is_removed_costs_no_transaction_and_comes_back_with_one() {
    let mut world = World::mesh(&[2]);
    world.faults.funded = true;
    world.restart_with(with_place("gw.example"));
    world.run_until_idle();
    world.hint();
    let own = |world: &World| world.contract.read(instance(OWN), None).peers[0].clone();
    assert_eq!(own(&world).gateway, gateway(1, 51822));
    let (updates, offers) = (own(&world).endpoint_epoch, world.commands["offer"]);

    world.contract.remove_domain(1);
    world.hint();
    world.pass(Duration::from_secs(3600));
    assert_eq!((own(&world).endpoint_epoch, world.commands["offer"]), (updates, offers), "{:?}", world.offered());
    assert!(has_warning(&world, "W109"));
    assert_eq!(world.keys_on_device(), [key(2)].into());

    // What else changes goes on chain without it.
    world.feed(mesh_core::agent::Input::OwnEndpoint(OwnEndpoint::Known(endpoint(50))));
    world.hint();
    assert_eq!((own(&world).endpoint, own(&world).gateway), (Some(endpoint(50)), None));
    let index = world.contract.add_domain("gw.example");
    world.hint();
    world.hint();
    assert_eq!(own(&world).gateway, gateway(index, 51822));
    assert_eq!(own(&world).endpoint_epoch, updates + 2);
}

#[test]
fn a_node_without_a_gateway_takes_its_place_back() {
    let mut world = World::mesh(&[2]);
    world.faults.funded = true;
    world.restart_with(with_place("gw.example"));
    world.run_until_idle();
    world.hint();
    // Not while it is still looking for its own address: one update says both.
    world.restart_with(Policy { endpoint: OwnEndpoint::Searching, ..policy() });
    world.run_until_idle();
    assert_eq!(world.contract.read(instance(OWN), None).peers[0].gateway, gateway(1, 51822));
    world.feed(mesh_core::agent::Input::OwnEndpoint(OwnEndpoint::NotFound));
    world.hint();
    let own = world.contract.read(instance(OWN), None).peers[0].clone();
    assert_eq!((own.gateway, own.endpoint), (None, Some(endpoint(OWN))), "the endpoint on record stays");
}

#[test]
fn a_peer_under_a_removed_domain_stays_on_the_device() {
    let mut world = World::mesh(&[]);
    let mut add = |id: u32| {
        world.contract.bind(token(id), instance(id));
        world.contract.register(Registration { gateway: signed(51822), ..registration(id) })
    };
    assert!(add(2) && add(3));
    world.hint();
    world.take_changes();
    world.contract.remove_domain(1);
    world.hint();
    assert_eq!(world.take_changes(), [""; 0]);
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
    assert!(has_warning(&world, "W405"));
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "nothing is wrong with UDP");
}

fn tls(id: u32, port: u16) -> Registration {
    Registration {
        network_type: NetworkType::TlsGateway,
        wireguard_key: WireguardKey([0; 32]),
        tls_key: Some(tls_key(id)),
        endpoint: None,
        gateway: signed(port),
        ..registration(id)
    }
}

fn knowing_the_gateway() -> Policy {
    Policy {
        allowed: Allowed { gateway_domains: vec!["gw.example".parse().unwrap()], ..Allowed::default() },
        ..policy()
    }
}

fn tls_policy() -> Policy {
    Policy { place: place("gw.example", 8443), endpoint: OwnEndpoint::None, ..policy() }
}

/// A TLS node that is a member, beside one of its kind (2) and a WireGuard node (3).
fn tls_world() -> World {
    let mut world = World::new();
    world.contract.bind(token(2), instance(2));
    assert!(world.contract.register(tls(2, 443)));
    world.join(3);
    world.restart_as(NetworkType::TlsGateway, tls_policy());
    world.run_until_idle();
    world
}

fn other(id: u32, kind: NodeKind, url: Option<String>) -> OtherPeer {
    let name = if id == 2 { "pg-2".to_owned() } else { format!("node-{id}") };
    let tls_key = (kind == NodeKind::Tls).then(|| tls_key(id));
    OtherPeer { token_id: token(id), name, kind, instance_id: instance(id), tls_key, url }
}

fn url_of(id: u32, port: u16) -> Option<String> {
    Some(format!("https://{}-{port}s.gw.example", instance(id)))
}

#[test]
fn a_tls_node_joins_and_makes_nothing_on_its_machine() {
    let mut world = tls_world();
    let Some(Intent::Register(offered)) = world.offered() else { panic!("{:?}", world.status()) };
    assert_eq!(Registration { deadline: 0, ..offered }, Registration { deadline: 0, ..tls(OWN, 8443) });
    let status = world.status();
    assert_eq!((status.own.membership, status.own.kind), (MembershipState::Registering, NodeKind::Tls));
    assert_eq!(status.other_peers, [], "a node that is no member is shown no peers");
    assert!(!status.verdict.ready);

    assert!(world.submit());
    world.hint();
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Ok, true), "{status:?}");
    assert_eq!((status.own.url, status.own.address, status.own.public_key), (url_of(OWN, 8443), None, None));
    let expected = [other(2, NodeKind::Tls, url_of(2, 443)), other(3, NodeKind::Wireguard, None)];
    assert_eq!((status.other_peers.as_slice(), status.peers.len()), (&expected[..], 0));
    assert_eq!((status.agent.interface, status.registry.in_sync), (None, true));

    world.pass(Duration::from_secs(120));
    assert!(world.machine.guard_route.is_none() && !world.has_device());
    assert!(!world.commands.contains_key("observe") && !world.commands.contains_key("apply"), "{:?}", world.commands);
    world.feed(mesh_core::agent::Input::Shutdown);
    assert!(world.stopped, "there is nothing to take back");
}

#[test]
fn a_wireguard_node_lists_tls_nodes_and_keeps_them_off_its_device() {
    let mut world = World::mesh(&[3]);
    world.contract.bind(token(2), instance(2));
    assert!(world.contract.register(tls(2, 443)));
    world.hint();
    let status = world.status();
    assert_eq!(status.other_peers, [other(2, NodeKind::Tls, None)], "its operator knows nothing of that gateway");
    assert!(has_warning(&world, "W406"), "{:?}", status.warnings);
    world.restart_with(knowing_the_gateway());
    world.run_until_idle();
    let status = world.status();
    assert_eq!(status.other_peers, [other(2, NodeKind::Tls, url_of(2, 443))]);
    assert_eq!(world.keys_on_device(), [key(3)].into());
    assert!(status.registry.in_sync && status.verdict.state == VerdictState::Ok, "{status:?}");
    world.contract.revoke(token(2));
    world.hint();
    assert_eq!((world.status().other_peers, world.status().own.url), (Vec::new(), None));
}

#[test]
fn urls_go_with_their_base_domain() {
    let mut world = tls_world();
    world.faults.funded = true;
    world.restart();
    world.run_until_idle();
    world.hint();
    assert_eq!(world.status().own.url, url_of(OWN, 8443));
    let offers = world.commands["offer"];
    world.contract.remove_domain(1);
    world.hint();
    let status = world.status();
    assert_eq!((status.own.url.as_ref(), status.own.membership), (None, MembershipState::Active));
    assert_eq!(
        status.other_peers,
        [other(2, NodeKind::Tls, None), other(3, NodeKind::Wireguard, None)],
        "still members, nowhere to be found"
    );
    assert!(has_warning(&world, "W109") && has_warning(&world, "W405"));
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.commands["offer"], offers, "the contract takes no registration without a place");

    world.contract.add_domain("gw.example");
    world.hint();
    world.hint();
    assert_eq!((world.status().own.url, has_warning(&world, "W109")), (url_of(OWN, 8443), false));
}

#[test]
fn a_tls_node_without_its_domain_says_what_to_do_and_joins_once_it_is_done() {
    let mut world = tls_world();
    world.restart_with(Policy { place: place("other.example", 443), ..tls_policy() });
    world.run_until_idle();
    let status = world.status();
    let command = format!("meshctl domain add other.example --contract {}", status.registry.contract);
    assert_eq!(status.own.membership_hint, Some(command));
    let warning = status.warnings.iter().find(|warning| warning.code == "W104").unwrap();
    assert!(warning.message.contains("no URL to register"), "{warning:?}");
    assert_eq!(world.offered(), None);
    world.faults.funded = true;
    world.contract.add_domain("other.example");
    world.hint();
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert_eq!(world.status().own.url, Some(format!("https://{}-443s.other.example", instance(OWN))));
}

#[test]
fn what_the_contract_refuses_is_not_left_to_a_relayer() {
    let mut world = tls_world();
    world.faults.refusal = Some("let the owner allow it");
    world.restart();
    world.run_until_idle();
    let status = world.status();
    assert_eq!(status.own.membership_hint.as_deref(), Some("let the owner allow it"));
    let warning = status.warnings.iter().find(|warning| warning.code == "W104").unwrap();
    assert!(!warning.message.contains("relayer"), "{warning:?}");
}

#[test]
fn urls_are_proved_like_everything_else() {
    let mut world = tls_world();
    world.faults.funded = true;
    world.restart();
    world.run_until_idle();
    world.hint();
    assert!(world.status().verdict.ready);
    // Another node's signatures in place of its own.
    world.faults.swapped_proofs.insert(token(4));
    world.contract.bind(token(4), instance(4));
    assert!(world.contract.register(tls(4, 443)));
    world.hint();
    assert!(world.status().other_peers.iter().all(|peer| peer.token_id != token(4)));
    assert!(has_warning(&world, "W401"));

    // The own registration must be proved too: an endpoint cannot make this node believe that it is a member.
    let mut world = tls_world();
    world.faults.funded = true;
    world.faults.swapped_proofs.insert(token(OWN));
    world.restart();
    world.run_until_idle();
    world.hint();
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Active);
    // The scripted liar swaps in the own node's first registration, which was of the other kind.
    assert!(!status.verdict.ready && status.other_peers.is_empty(), "{status:?}");
}

#[test]
fn an_old_view_gives_no_urls() {
    for (on_expiry, listed) in [(OnExpiry::FailClosed, 0), (OnExpiry::Static, 2)] {
        let mut world = tls_world();
        world.faults.funded = true;
        world.restart_with(Policy {
            on_expiry,
            deadlines: Deadlines { registry: Duration::from_secs(300), ..policy().deadlines },
            ..tls_policy()
        });
        world.run_until_idle();
        world.hint();
        world.faults.rpc_down = true;
        world.pass(Duration::from_secs(60));
        assert_eq!((world.status().other_peers.len(), world.status().verdict.state), (2, VerdictState::Stale));
        world.pass(Duration::from_secs(300));
        assert_eq!(world.status().other_peers.len(), listed, "{on_expiry:?}");
        world.faults.rpc_down = false;
        world.pass(Duration::from_secs(60));
        assert_eq!((world.status().other_peers.len(), world.status().verdict.ready), (2, true));
    }
}

#[test]
fn a_restarted_tls_node_knows_its_peers_without_any_chain() {
    let mut world = tls_world();
    world.faults.funded = true;
    world.restart();
    world.run_until_idle();
    world.hint();
    let listed = world.status().other_peers;
    assert_eq!(listed.len(), 2);
    world.faults.rpc_down = true;
    world.restart();
    world.run_until_idle();
    assert_eq!(world.status().other_peers, listed);
}

#[test]
fn a_node_that_changes_its_kind_registers_again() {
    let mut world = tls_world();
    world.faults.funded = true;
    world.restart();
    world.run_until_idle();
    world.hint();
    world.restart_as(NetworkType::Wireguard, knowing_the_gateway());
    world.run_until_idle();
    world.hint();
    let status = world.status();
    assert_eq!((status.own.membership, status.own.kind), (MembershipState::Active, NodeKind::Wireguard));
    assert_eq!(world.keys_on_device(), [key(3)].into());
    assert_eq!(status.other_peers, [other(2, NodeKind::Tls, url_of(2, 443))]);
    world.restart_as(NetworkType::TlsGateway, tls_policy());
    world.machine = Default::default();
    world.run_until_idle();
    world.hint();
    assert_eq!(world.status().own.url, url_of(OWN, 8443));
}

#[test]
fn additions_of_urls_wait_for_confirmations_and_removals_do_not() {
    let mut world = tls_world();
    world.faults.funded = true;
    world.restart_with(Policy { confirmations: 2, ..tls_policy() });
    world.run_until_idle();
    world.hint();
    let listed = |world: &World| world.status().other_peers.iter().map(|peer| peer.token_id).collect::<Vec<_>>();
    world.contract.mine();
    world.contract.mine();
    world.hint();
    assert_eq!(listed(&world), [token(2), token(3)]);
    world.contract.bind(token(4), instance(4));
    assert!(world.contract.register(tls(4, 443)));
    world.hint();
    assert_eq!(listed(&world), [token(2), token(3)]);
    world.contract.mine();
    world.contract.mine();
    world.hint();
    assert_eq!(listed(&world), [token(2), token(3), token(4)]);
    world.contract.revoke(token(4));
    world.hint();
    assert_eq!(listed(&world), [token(2), token(3)]);
}
