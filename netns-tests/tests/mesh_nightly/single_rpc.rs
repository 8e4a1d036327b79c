//! A node that has a single RPC endpoint, which answers falsely about everything that no signature covers, one thing after another.

use std::fs;

use alloy_primitives::{Bytes, FixedBytes, U256};
use alloy_sol_types::SolCall;
use anyhow::{Context as _, Result, bail, ensure};
use mesh_contract::DstackClusterNFT::{baseDomainsCall, epochCall, meshNetworkCall, meshNetworkReturn, peersCall};
use mesh_core::status::Status;
use netns_tests::{FalseAnswers, MaliciousRpc, World};
use serde_json::json;

use crate::PATIENCE;

#[test]
fn a_single_malicious_endpoint_brings_no_peer_back_and_misdirects_no_node() -> Result<()> {
    let mut world = World::new(3)?;
    let mut rpc = world.malicious_rpc(9545)?;
    world.node_mut(1).settings.rpc_urls = vec![rpc.url().to_owned()];
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    ensure!(has(&world.node(1).status()?, "W308"), "a single endpoint gives no warning");
    let revoked = world.node(3).public_key()?.to_string();
    let listed = peersCall { cursor: U256::from(1), limit: U256::from(500) };
    let call = json!([{ "to": world.contract(), "data": Bytes::from(listed.abi_encode()) }, "latest"]);
    let before: Bytes = serde_json::from_value(world.chain.rpc("eth_call", call)?)?;
    world.operate(&["revoke", &world.node(3).token()?.to_string()])?;
    world.wait("node 1 to drop node 3", PATIENCE, || {
        ensure!(!world.node(1).device_peers()?.contains(&revoked), "not yet");
        Ok(())
    })?;
    let left = world.node(1).device_peers()?;
    ensure!(left.len() == 1, "{left:?}");

    // The list as it was, under the newest head.
    let old = (FixedBytes(peersCall::SELECTOR), before);
    answer_falsely(
        &world,
        &mut rpc,
        &FalseAnswers { answers: vec![old.clone()], epochs_ahead: 1, ..FalseAnswers::default() },
    )?;
    let warned = |world: &World, code: &str| -> Result<Status> {
        let (status, _) = world.wait(&format!("{code} on node 1"), PATIENCE, || {
            let on_device = world.node(1).device_peers()?;
            if on_device.contains(&revoked) {
                bail!("THE REVOKED NODE IS BACK: {on_device:?}");
            }
            let status = world.node(1).status()?;
            ensure!(has(&status, code), "{:?}", status.warnings);
            Ok(status)
        })?;
        Ok(status)
    };
    warned(&world, "W407")?;
    ensure!(world.node(1).device_peers()? == left, "another peer was touched");
    world.node_mut(1).restart()?;
    warned(&world, "W407").context("after a restart")?;
    // A node remembers what an endpoint said from its first read on, not from what is on its disk.
    world.chain.mine(1)?;
    let head = world.chain.block_number()?;
    world.wait("node 1 to have read since its restart", PATIENCE, || {
        let block = world.node(1).status()?.registry.block.map(|block| block.number);
        ensure!(block >= Some(head), "{block:?} of {head}");
        Ok(())
    })?;

    // An older state of the contract, under the blocks of the newer one.
    let epoch = (FixedBytes(epochCall::SELECTOR), Bytes::from(epochCall::abi_encode_returns(&1)));
    answer_falsely(&world, &mut rpc, &FalseAnswers { answers: vec![old, epoch], ..FalseAnswers::default() })?;
    warned(&world, "W305")?;
    // A read that was under way when the answers changed saw two states of one block, and was refused for that.
    world.wait("node 1 to see that the state is older", PATIENCE, || {
        let error = world.node(1).status()?.registry.sources[0].error.clone().unwrap_or_default();
        ensure!(error.contains("serves an old state"), "{error}");
        Ok(())
    })?;

    // Another network, at what is a first start as far as the disk knows.
    let network = meshNetworkReturn { base: FixedBytes([203, 0, 4, 0]), prefixLength: 24 };
    let network = (FixedBytes(meshNetworkCall::SELECTOR), Bytes::from(meshNetworkCall::abi_encode_returns(&network)));
    world.node_mut(1).stop()?;
    fs::remove_file(world.node(1).state_dir().join("registry.json")).context("forget the registry")?;
    answer_falsely(
        &world,
        &mut rpc,
        &FalseAnswers { answers: vec![network], epochs_ahead: 2, ..FalseAnswers::default() },
    )?;
    world.node_mut(1).start()?;
    let status = warned(&world, "W306")?;
    let refused = status.warnings.iter().find(|warning| warning.code == "W306").context("W306")?;
    ensure!(refused.hint.as_ref().is_some_and(|hint| hint.contains("--mesh-network 203.0.4.0/24")), "{refused:?}");
    ensure!(status.registry.network.is_none() && status.own.address.is_none(), "it was believed: {:?}", status.own);

    // Gateways of the attacker, in a mesh of addresses. These are development nodes, because their keys are the simulator's: the
    // driver's tests show that production nodes show no development URLs.
    let domains = (
        FixedBytes(baseDomainsCall::SELECTOR),
        Bytes::from(baseDomainsCall::abi_encode_returns(&vec!["evil.example.com".to_owned()])),
    );
    answer_falsely(
        &world,
        &mut rpc,
        &FalseAnswers { answers: vec![domains], epochs_ahead: 3, ..FalseAnswers::default() },
    )?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let (_, peers) = world.node(1).get("/v1/peers")?;
    ensure!(peers.contains(&world.node(2).address()?.to_string()) && !peers.contains("evil"), "{peers}");
    ensure!(rpc.count("falsified") > 0, "the endpoint answered nothing falsely");
    world.close()
}

/// Each false answer is about a block that nothing was said about before.
fn answer_falsely(world: &World, rpc: &mut MaliciousRpc, answers: &FalseAnswers) -> Result<()> {
    rpc.answer_with(answers)?;
    world.chain.mine(1)
}

fn has(status: &Status, code: &str) -> bool {
    status.warnings.iter().any(|warning| warning.code == code)
}
