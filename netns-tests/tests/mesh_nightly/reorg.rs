//! The chain takes a registration back.

use std::time::Instant;

use alloy_primitives::U256;
use alloy_sol_types::SolCall as _;
use anyhow::{Result, ensure};
use mesh_contract::DstackClusterNFT::revokeCall;
use netns_tests::{OPERATOR, World, stall_clock};
use serde_json::json;

use crate::{CUT_LIMIT, PATIENCE};

#[test]
fn a_reorg_that_removes_a_registration_removes_the_peer() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    // Node 3 has no funds, so it cannot simply register again.
    world.mint(3)?;
    world.node_mut(3).start()?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.relay(3)?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let key = world.node(3).public_key()?.to_string();

    let reorganised = world.chain.reorg(1)?;
    world.wait("nodes 1 and 2 to drop node 3", PATIENCE, || {
        for node in [1, 2] {
            ensure!(!world.node(node).device_peers()?.contains(&key), "node {node} still has it");
        }
        Ok(())
    })?;
    let took = stall_clock::since(reorganised);
    ensure!(took <= CUT_LIMIT, "dropped {took:?} after the reorg, the limit is {CUT_LIMIT:?}");
    println!("measured: a peer whose registration was taken back was dropped after {took:.2?}");
    world.node(1).ping(world.node(2).address()?)?;

    // The binding was not taken back: node 3 offers its registration again, and is a peer again once it is paid for.
    world.relay(3)?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    Ok(())
}

/// The epoch is the same as before: it is the history that tells.
#[test]
fn a_fork_with_another_change_of_the_same_epoch_is_read_as_soon() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.node_mut(node).settings.rpc_urls = vec![world.chain.http_url()];
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let keys = [world.node(2).public_key()?.to_string(), world.node(3).public_key()?.to_string()];
    let revoke = |node: usize| -> Result<Instant> {
        let call = revokeCall { tokenId: U256::from(world.node(node).token()?) };
        world.chain.send(OPERATOR, world.contract(), &call.abi_encode())
    };
    let dropped = |key: &String| {
        ensure!(!world.node(1).device_peers()?.contains(key), "node 1 still has it");
        Ok(())
    };
    let before = world.chain.rpc("evm_snapshot", json!([]))?;
    revoke(3)?;
    world.wait("node 1 to drop node 3", PATIENCE, || dropped(&keys[1]))?;
    let epoch = world.node(1).status()?.registry.epoch;

    world.chain.rpc("evm_revert", json!([before]))?;
    let forked = revoke(2)?;
    // A chain that is not shorter.
    world.chain.mine(1)?;
    world.wait("node 1 to drop node 2", PATIENCE, || dropped(&keys[0]))?;
    let took = stall_clock::since(forked);
    ensure!(world.node(1).status()?.registry.epoch == epoch, "another epoch");
    ensure!(took <= CUT_LIMIT, "dropped {took:?} after the fork, the limit is {CUT_LIMIT:?}");
    println!("measured: a change of the same epoch on another fork was read after {took:.2?}");
    Ok(())
}
