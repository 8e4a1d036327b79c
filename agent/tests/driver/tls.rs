//! A node without a device: its application has a URL, and so have those of others.

use std::collections::BTreeSet;

use mesh_core::{
    agent::{Allowed, OwnEndpoint},
    place::OwnPlace,
    registration::NetworkType,
    status::{MembershipState, VerdictState},
};
use serde_json::{Value, json};

use crate::world::World;

/// Node 1 is about to be started as a TLS node, beside one of its kind (2) and a WireGuard node (3).
async fn beside_both_kinds() -> World {
    let mut world = World::new().await;
    world.network_type = NetworkType::TlsGateway;
    world.allowed.dev_urls = true;
    world.place = Some(OwnPlace { domain: "gw.example".parse().unwrap(), port: 8443.try_into().unwrap() });
    world.endpoint.send_replace(OwnEndpoint::None);
    world.chain.set_base_domains(&[Some("gw.example")]);
    world.mint_all();
    world.chain.register_tls(2, &world.identities[1], 443);
    world.chain.register(3, &world.identities[2], world.key(3));
    // And one of a token that is no peer.
    world.chain.set_dev_urls(&[(2, "http://localhost:8080"), (9, "http://absent")]);
    world
}

async fn peers(world: &World) -> Value {
    let (code, body) = world.get("/v1/peers").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn tls_key(world: &World, node: usize) -> String {
    crate::chain::tls_key(world.identities[node - 1].instance).to_string()
}

fn url(world: &World, node: usize, port: u16) -> String {
    format!("https://{}-{port}s.gw.example", world.identities[node - 1].instance)
}

#[tokio::test]
async fn a_tls_node_offers_itself_serves_the_same_api_and_touches_no_device() {
    let mut world = beside_both_kinds().await;
    world.start();
    world.until_offered().await;
    let (_, offer) = world.get("/v1/registration").await;
    let offer: Value = serde_json::from_str(&offer).unwrap();
    assert_eq!((&offer["token_id"], &offer["method"]), (&1.into(), &"registerPeer".into()));
    assert_eq!((world.get("/readyz").await.0, world.get("/livez").await.0), (503, 200));
    assert_eq!(peers(&world).await["peers"], json!([]), "a node that is no member sees no peers");

    world.chain.register_tls(1, &world.identities[0], 8443);
    world.hint();
    world.until_status("readiness", |status| status.verdict.ready).await;
    let status = world.status().await;
    assert_eq!(
        (status.own.membership, status.verdict.state),
        (MembershipState::Active, VerdictState::Ok),
        "{status:?}"
    );
    let expected = json!({
        "schema": "p2p-agent.peers/v1",
        "self": {
            "token_id": 1, "name": "node-1", "kind": "tls", "address": null, "url": url(&world, 1, 8443),
            "connect_to": url(&world, 1, 8443), "dev_url": null, "public_key": null, "tls_key": tls_key(&world, 1), "state": "active",
        },
        "peers": [
            {
                "token_id": 2, "name": "node-2", "kind": "tls", "address": null, "url": url(&world, 2, 443),
                "connect_to": url(&world, 2, 443), "dev_url": "http://localhost:8080", "public_key": null,
                "tls_key": tls_key(&world, 2), "state": null,
            },
            {
                "token_id": 3, "name": "node-3", "kind": "wireguard", "address": null, "url": null,
                "connect_to": null, "dev_url": null, "public_key": null, "tls_key": null, "state": null,
            },
        ],
    });
    assert_eq!(peers(&world).await, expected);
    let event = world.first_line_of("/v1/peers/watch", "data: ").await;
    assert_eq!(serde_json::from_str::<Value>(&event).unwrap(), expected);
    assert_eq!(world.get("/readyz").await.0, 200);
    let (_, metrics) = world.get("/metrics").await;
    assert!(metrics.lines().any(|line| line == "p2p_ready 1"), "{metrics}");

    world.chain.set_base_domains(&[None]);
    world.hint();
    world.until_status("the end of the URLs", |status| status.own.url.is_none()).await;
    let view = peers(&world).await;
    assert_eq!((&view["peers"][0]["url"], &view["self"]["url"]), (&Value::Null, &Value::Null));
    assert!(world.status().await.warnings.iter().any(|warning| warning.code == "W109"));

    assert!(!world.tunnel.exists() && world.links.log().is_empty(), "{:?}", world.links.log());
    world.stop().await;
    assert!(!world.tunnel.exists() && world.links.log().is_empty(), "{:?}", world.links.log());
}

#[tokio::test]
async fn a_revoked_tls_node_is_fenced_and_lists_no_peers() {
    let mut world = beside_both_kinds().await;
    world.chain.register_tls(1, &world.identities[0], 8443);
    world.start();
    world.until_status("readiness", |status| status.verdict.ready).await;
    let members = world.tls_members.borrow().clone();
    let tokens = members.members.values().map(|member| (member.token.get(), member.is_own));
    assert_eq!(
        tokens.collect::<BTreeSet<_>>(),
        [(1, true), (2, false)].into(),
        "the one without a TLS key is not there"
    );
    let other = &members.members[&crate::chain::tls_key(world.identities[1].instance)];
    let place = other.place.as_ref().map(|place| (place.instance, place.port.get(), place.domain.as_str()));
    assert_eq!(place, Some((world.identities[1].instance, 443, "gw.example")));
    assert!(members.expires_at.is_some());
    world.chain.remove(2);
    world.hint();
    world.until_status("the other's end", |status| status.other_peers.len() == 1).await;
    assert_eq!(world.tls_members.borrow().members.len(), 1, "itself");
    world.chain.remove(1);
    world.hint();
    world.until_status("the fence", |status| status.verdict.state == VerdictState::Fenced).await;
    assert!(world.tls_members.borrow().members.is_empty(), "a node that is no member lets no caller in");
    assert_eq!((world.get("/readyz").await.0, &peers(&world).await["peers"]), (503, &json!([])));
    world.stop().await;
}

#[tokio::test]
async fn a_restarted_tls_node_needs_no_chain() {
    let mut world = beside_both_kinds().await;
    world.chain.register_tls(1, &world.identities[0], 8443);
    world.start();
    world.until_status("readiness", |status| status.verdict.ready).await;
    let before = peers(&world).await;
    world.stop().await;
    world.chain.set_reachable(false);
    world.start();
    world.until_status("the saved peers", |status| status.other_peers.len() == 2).await;
    assert_eq!(peers(&world).await, before);
    world.stop().await;
}

#[tokio::test]
async fn a_wireguard_node_learns_the_urls_of_tls_nodes() {
    let mut world = World::new().await;
    world.chain.set_base_domains(&[Some("gw.example")]);
    world.mint_all();
    world.chain.register(1, &world.identities[0], world.key(1));
    world.chain.register_tls(2, &world.identities[1], 443);
    world.chain.register(3, &world.identities[2], world.key(3));
    world.chain.set_dev_urls(&[(1, "tcp://one:1"), (3, "10.0.1.3:5432")]);
    world.allowed =
        Allowed { gateway_domains: vec!["gw.example".parse().unwrap()], dev_urls: true, ..Allowed::default() };
    world.start();
    world.until("node 3 alone on the device", |world| world.peers() == world.keys(&[3])).await;
    let view = peers(&world).await;
    assert_eq!(view["self"]["kind"], "wireguard");
    let of = |peer: &Value| (peer["kind"].clone(), peer["address"].clone(), peer["url"].clone());
    assert_eq!(of(&view["peers"][0]), ("tls".into(), Value::Null, url(&world, 2, 443).into()));
    assert_eq!(of(&view["peers"][1]), ("wireguard".into(), "10.0.1.3".into(), Value::Null));
    let dev_urls =
        |view: &Value| [&view["self"], &view["peers"][0], &view["peers"][1]].map(|node| node["dev_url"].clone());
    assert_eq!(dev_urls(&view), [json!("tcp://one:1"), Value::Null, json!("10.0.1.3:5432")]);

    // Watchers get nothing but that, too.
    world.chain.set_dev_urls(&[(2, "tcp://two:2")]);
    world.hint();
    world.until_peers("the other URL", |view| dev_urls(view) == [Value::Null, json!("tcp://two:2"), Value::Null]).await;
    let event = world.first_line_of("/v1/peers/watch", "data: ").await;
    assert_eq!(dev_urls(&serde_json::from_str(&event).unwrap()), [Value::Null, json!("tcp://two:2"), Value::Null]);
    world.stop().await;
}

#[tokio::test]
async fn urls_that_the_contract_alone_vouches_for_are_not_shown() {
    let mut world = World::new().await;
    world.chain.set_base_domains(&[Some("evil.example.com")]);
    world.mint_all();
    world.chain.register(1, &world.identities[0], world.key(1));
    world.chain.register_tls(2, &world.identities[1], 443);
    world.chain.register(3, &world.identities[2], world.key(3));
    world.chain.set_dev_urls(&[
        (1, "http://evil.example.com/1"),
        (2, "http://evil.example.com/2"),
        (3, "http://evil.example.com/3"),
    ]);
    world.start();
    world.until("node 3 alone on the device", |world| world.peers() == world.keys(&[3])).await;
    let view = peers(&world).await;
    assert_eq!(view["peers"].as_array().map(Vec::len), Some(2), "{view}");
    assert_eq!(view["peers"][1]["address"], "10.0.1.3");
    assert!(!view.to_string().contains("evil"), "{view}");
    let status = world.status().await;
    let warning = status.warnings.iter().find(|warning| warning.code == "W406").unwrap();
    assert!(
        warning.hint.as_deref().is_some_and(|hint| hint.contains("--allow-gateway-domain evil.example.com")),
        "{warning:?}"
    );
    world.stop().await;
}
