//! Nodes without a device, run by an ordinary user, beside a WireGuard node in one cluster.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::{MembershipState, Status, VerdictState};
use netns_tests::{TLS_DOMAIN as DOMAIN, TlsAgent, UNPRIVILEGED, World};
use serde_json::{Value, json};

use crate::PATIENCE;

fn peers(world: &World, node: usize) -> Result<Value> {
    let (code, body) = world.node(node).get("/v1/peers")?;
    ensure!(code == 200, "/v1/peers of node {node} answers {code}: {body}");
    serde_json::from_str(&body).with_context(|| format!("read {body}"))
}

fn wait_ready(world: &World, node: usize) -> Result<Status> {
    let (status, _) = world.wait(&format!("node {node} to be ready"), PATIENCE, || {
        let status = world.node(node).status()?;
        ensure!(status.verdict.ready, "{:?}, {:?}", status.own.membership, status.warnings);
        Ok(status)
    })?;
    Ok(status)
}

/// Waits until a node lists these members to applications, itself included: (kind, address, URL), by node.
fn wait_view(world: &World, node: usize, expected: &Value) -> Result<()> {
    world
        .wait(&format!("node {node} to list {expected}"), PATIENCE, || {
            let view = peers(world, node)?;
            let own = view["self"].clone();
            let others = view["peers"].as_array().context("no list of peers")?.clone();
            let mut all: Vec<Value> = others.into_iter().chain([own]).collect();
            all.sort_by_key(|member| member["token_id"].as_u64());
            let seen: Vec<Value> =
                all.iter().map(|member| json!([member["kind"], member["address"], member["url"]])).collect();
            ensure!(json!(seen) == *expected, "it lists {}", json!(seen));
            Ok(())
        })
        .map(drop)
}

#[test]
fn both_kinds_live_in_one_cluster_and_urls_obey_its_base_domains() -> Result<()> {
    let mut world = World::new(3)?;
    world.operate(&["domain", "add", DOMAIN])?;
    for node in 1..=3 {
        ensure!(usize::try_from(world.mint(node)?)? == node, "tokens are minted in order");
        world.fund(node)?;
    }
    let agents = [TlsAgent::start(&world, 1, 8443)?, TlsAgent::start(&world, 2, 443)?];
    // It has no gateway of its own, and its operator knows the others'.
    world.node_mut(3).settings.extra.extend(["--allow-gateway-domain", DOMAIN].map(str::to_owned));
    world.node_mut(3).start()?;
    for node in 1..=3 {
        wait_ready(&world, node)?;
    }
    let url = |node: usize, port: u16| -> Result<Value> {
        Ok(format!("https://{}-{port}s.{DOMAIN}", world.instance(node)?).into())
    };
    let tls = |url: Value| json!(["tls", null, url]);
    let (far, near) = (json!(["wireguard", null, null]), json!(["wireguard", "10.0.1.3", null]));
    let from_tls = json!([tls(url(1, 8443)?), tls(url(2, 443)?), far]);
    let from_wireguard = json!([tls(url(1, 8443)?), tls(url(2, 443)?), near]);
    let see = |tls: &Value, wireguard: &Value| -> Result<()> {
        wait_view(&world, 1, tls)?;
        wait_view(&world, 2, tls)?;
        wait_view(&world, 3, wireguard)
    };
    see(&from_tls, &from_wireguard)?;
    ensure!(
        world.node(3).device_peers()?.is_empty(),
        "a TLS node is on the device: {:?}",
        world.node(3).device_peers()?
    );
    world.node(3).ping(world.node(3).address()?)?;

    for (agent, node) in agents.iter().zip(1..) {
        it_is_unprivileged_and_makes_nothing(&world, agent, node)?;
        world.wait(&format!("every face of node {node} to agree"), PATIENCE, || every_face_agrees(&world, node))?;
    }

    // The owner removes the domain: nodes under it have no URL any more, and send no transaction about it.
    let sent =
        || (1..=3).map(|node| world.chain.transaction_count(&world.member_address(node)?)).collect::<Result<Vec<_>>>();
    let before = sent()?;
    world.operate(&["domain", "remove", DOMAIN])?;
    let nowhere = || tls(Value::Null);
    see(&json!([nowhere(), nowhere(), far]), &json!([nowhere(), nowhere(), near]))?;
    for node in 1..=2 {
        let status = world.node(node).status()?;
        ensure!(status.own.membership == MembershipState::Active, "{:?}", status.own);
        let warning = status.warnings.iter().find(|warning| warning.code == "W109").context("no W109")?;
        let command = format!("meshctl domain add {DOMAIN} --contract ");
        ensure!(warning.hint.as_ref().is_some_and(|hint| hint.starts_with(&command)), "{warning:?}");
    }
    // A relay's answer says what the agents decided at this state: there is nothing on offer.
    for node in 1..=2 {
        ensure!(world.node(node).get("/v1/registration")?.0 == 404, "node {node} still offers something");
    }
    ensure!(sent()? == before, "{:?} transactions, before {before:?}", sent()?);

    // Added again it has another index, and each node says so by itself.
    world.operate(&["domain", "add", DOMAIN])?;
    see(&from_tls, &from_wireguard)?;

    world.operate(&["revoke", "2"])?;
    wait_view(&world, 1, &json!([tls(url(1, 8443)?), far]))?;
    wait_view(&world, 3, &json!([tls(url(1, 8443)?), near]))?;
    world.wait("node 2 to be fenced", PATIENCE, || {
        let status = world.node(2).status()?;
        ensure!(status.verdict.state == VerdictState::Fenced && status.other_peers.is_empty(), "{status:?}");
        Ok(())
    })?;
    for agent in agents {
        agent.stop()?;
    }
    world.close()
}

fn it_is_unprivileged_and_makes_nothing(world: &World, agent: &TlsAgent, node: usize) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).context(name.to_owned());
    let uids: Vec<u32> = field("Uid:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(uids == [UNPRIVILEGED; 4], "it runs as {uids:?}");
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        ensure!(u64::from_str_radix(field(set)?, 16)? == 0, "{set} {}", field(set)?);
    }
    ensure!(agent.home().join("state/p2p-agent/lock").exists(), "the state is not where the user keeps it");
    let left = world.node(node).namespace.ip("route show type blackhole")?;
    ensure!(left.is_empty() && !world.node(node).has_interface()?, "node {node} has a device or a guard route: {left}");
    Ok(())
}

fn every_face_agrees(world: &World, node: usize) -> Result<()> {
    let node = world.node(node);
    let json = node.meshctl(&["status", "--json"])?.success()?;
    let status: Status = serde_json::from_str(&json)?;
    ensure!(status.verdict.state == VerdictState::Ok, "{:?}, {:?}", status.verdict.state, status.warnings);
    let file = node.dir().join("status.json");
    fs::write(&file, &json)?;
    node.meshctl(&["schema", "--check", &file.display().to_string()])?.success()?;
    node.meshctl(&["status", "--check", "startup"])?.success()?;
    node.meshctl(&["wait", "--ready", "--peers", "1", "--timeout", "5"])?.success()?;
    let url = status.own.url.context("it has no URL")?;
    let text = node.meshctl(&["status"])?.success()?;
    ensure!(text.contains(&url), "{url} is not in\n{text}");
    let text = node.meshctl(&["peers"])?.success()?;
    for peer in status.other_peers {
        let line = text.lines().find(|line| line.contains(&format!(" {} ", peer.name))).context("a peer is missing")?;
        ensure!(peer.url.is_none_or(|url| line.contains(&url)), "{line}");
    }
    ensure!(node.get("/readyz")?.0 == 200 && node.get("/livez")?.0 == 200, "not ready or not alive");
    Ok(())
}
