//! Three agents form a full mesh.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::{PeerState, Status, VerdictState};
use netns_tests::{Traffic, World};

use crate::PATIENCE;

#[test]
fn three_agents_form_a_full_mesh_and_tcp_and_udp_cross_it() -> Result<()> {
    let mut world = World::new(3)?;
    // One of each: paid by the node itself, made a member by one command of the operator, and paid by the node over HTTP polling.
    world.node_mut(3).settings.rpc_urls = vec![world.chain.http_url()];
    world.join(1)?;
    let begun = Instant::now();
    world.admit(2)?;
    println!("measured: from an instance id to a member took {:.2?}", begun.elapsed());
    world.join(3)?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;

    for to in 1..=3 {
        let address = world.node(to).address()?;
        ensure!(
            address.octets() == [10, 0, 1, u8::try_from(world.node(to).token()?)?],
            "{address} is not 10.0.1.token"
        );
        let servers = Traffic::serve(world.binaries(), world.node(to), address)?;
        for from in (1..=3).filter(|&from| from != to) {
            servers
                .exchange(world.binaries(), world.node(from))
                .with_context(|| format!("from node {from} to {to}"))?;
        }
    }
    for node in 1..=3 {
        // The agent looks at its device once a second.
        world.wait(&format!("`wg show` to equal the status of node {node}"), PATIENCE, || {
            wg_show_equals_status(&world, node)?;
            every_face_agrees(&world, node)
        })?;
    }
    world.close()
}

/// `wg show` and `meshctl status` are two views of one device.
fn wg_show_equals_status(world: &World, node: usize) -> Result<()> {
    let status = world.node(node).status()?;
    let dump = world.node(node).wg_show("dump")?;
    let mut lines = dump.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let device = lines.next().context("`wg show dump` is empty")?;
    let key = world.node(node).public_key()?;
    ensure!(device[1] == key.to_string(), "public key: {} and {key}", device[1]);
    ensure!(Some(device[2].parse()?) == status.agent.listen_port, "listen port: {}", device[2]);

    let mut shown: Vec<_> = lines.collect();
    shown.sort();
    let mut said = status.peers;
    said.sort_by_key(|peer| peer.public_key.to_string());
    ensure!(shown.len() == 2 && said.len() == 2, "{} and {} peers", shown.len(), said.len());
    for (shown, said) in shown.iter().zip(&said) {
        ensure!(shown[0] == said.public_key.to_string(), "{} and {}", shown[0], said.public_key);
        ensure!(shown[1] != "(none)" && said.preshared_key, "peers of one app have a preshared key");
        ensure!(Some(shown[2]) == said.endpoint.as_deref(), "endpoint: {} and {:?}", shown[2], said.endpoint);
        ensure!(shown[3] == format!("{}/32", said.address), "allowed ips: {} and {}", shown[3], said.address);
        ensure!(shown[4] != "0" && said.last_handshake_at.is_some(), "no handshake: {shown:?}");
        ensure!(shown[5].parse::<u64>()? > 0 && said.rx_bytes > 0, "nothing received: {shown:?}");
        ensure!(said.state == PeerState::Up, "{} is {:?}", said.name, said.state);
    }
    Ok(())
}

/// Command line, schema, readiness and metrics.
fn every_face_agrees(world: &World, node: usize) -> Result<()> {
    let node = world.node(node);
    let json = node.meshctl(&["status", "--json"])?.success()?;
    let status: Status = serde_json::from_str(&json)?;
    ensure!(
        status.verdict.state == VerdictState::Ok,
        "verdict {:?}, warnings {:?}",
        status.verdict.state,
        status.warnings
    );
    ensure!(status.own.identity.simulated, "the guest agent is simulated, and status must say so");
    ensure!(status.registry.in_sync && status.registry.counts.on_device == 2, "{:?}", status.registry);
    let file = node.dir().join("status.json");
    std::fs::write(&file, &json)?;
    node.meshctl(&["schema", "--check", &file.display().to_string()])?.success()?;

    let text = node.meshctl(&["status"])?.success()?;
    ensure!(text.lines().next().is_some_and(|line| line.ends_with("OK")), "the first line is no verdict: {text}");
    node.meshctl(&["wait", "--ready", "--timeout", "5"])?.success()?;
    let (code, body) = node.get("/readyz")?;
    ensure!(code == 200, "/readyz answers {code}: {body}");
    let (_, metrics) = node.get("/metrics")?;
    ensure!(metrics.lines().any(|line| line == "p2p_ready 1"), "no `p2p_ready 1` in {metrics}");
    Ok(())
}
