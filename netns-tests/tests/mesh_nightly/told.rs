//! The host of a node keeps it from every RPC endpoint: its peers tell it who left.

use std::time::Duration;

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result, ensure};
use mesh_contract::DstackClusterNFT::revokeCall;
use netns_tests::{OPERATOR, World, stall_clock};

use crate::{CUT_LIMIT, PATIENCE};

/// Of five that node 1 last believed, three say so.
const TELLERS: [usize; 3] = [2, 3, 4];

#[test]
fn a_revoked_node_is_off_a_node_without_rpc_within_2_s_too() -> Result<()> {
    for (how, pause) in
        [("dropped", Duration::ZERO), ("dropped for long", Duration::from_secs(25)), ("refused", Duration::ZERO)]
    {
        let took = without_rpc(how, pause).with_context(|| format!("RPC {how}"))?;
        println!("measured: RPC of one node {how}: off every device {took:.2?} after the block");
    }
    Ok(())
}

/// What goes from node 1 to the endpoint is refused, or dropped without a word; node 5 is revoked after a pause.
fn without_rpc(how: &str, pause: Duration) -> Result<Duration> {
    let mut world = World::new(5)?;
    for node in 1..=5 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3, 4, 5], PATIENCE)?;
    world.wait_saved(1, 5, PATIENCE)?;
    let (key, revoked) = (world.node(5).public_key()?.to_string(), world.node(5).address()?);
    let token = world.node(5).token()?;
    if how == "refused" {
        world.node(1).refuse_rpc()?;
    } else {
        world.node(1).silence_rpc()?;
    }
    // The revoked one does not hear of it, and goes on as a member would.
    world.node(5).silence_rpc()?;
    std::thread::sleep(pause);
    world.node(1).ping(revoked)?;

    let mined =
        world.chain.send(OPERATOR, world.contract(), &revokeCall { tokenId: token.try_into()? }.abi_encode())?;
    world.wait("nodes 1 to 4 to drop node 5", PATIENCE, || {
        for node in 1..=4 {
            ensure!(!world.node(node).device_peers()?.contains(&key), "it is on the device of node {node}");
        }
        Ok(())
    })?;
    let took = stall_clock::since(mined);
    ensure!(took <= CUT_LIMIT, "dropped everywhere after {took:?}, the limit is {CUT_LIMIT:?}");

    let status = world.node(1).status()?;
    let [removal] = &status.registry.removed_by_peers[..] else {
        anyhow::bail!("node 1 says {:?}", status.registry.removed_by_peers)
    };
    let told_by: Vec<u32> = removal.told_by.iter().map(|token| token.get()).collect();
    let tellers = TELLERS.map(|node| world.node(node).token()).into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(told_by == tellers, "told by {told_by:?}, and the members are {tellers:?}");
    ensure!(status.warnings.iter().any(|warning| warning.code == "W408"), "{:?}", status.warnings);
    let shown = world.node(1).meshctl(&["status"])?;
    ensure!(shown.stdout.contains("removed by peers: "), "{}", shown.stdout);
    for node in TELLERS {
        let status = world.node(node).status()?;
        ensure!(status.registry.removed_by_peers.is_empty(), "node {node} read it itself");
    }
    // The others stay.
    ensure!(world.node(1).device_peers()?.len() == 3, "{}", world.node(1).wg_show("")?);
    for node in TELLERS {
        world.node(1).ping(world.node(node).address()?)?;
    }

    world.wait("node 1 to have saved that", PATIENCE, || {
        let saved = std::fs::read_to_string(world.node(1).state_dir().join("registry.json"))?;
        ensure!(saved.contains("\"told_by\""), "it has not");
        Ok(())
    })?;
    world.node_mut(1).restart()?;
    world.wait("node 1 to have its peers again", PATIENCE, || {
        ensure!(world.node(1).device_peers()?.len() == 3, "not yet");
        world.node(1).ping(world.node(2).address()?)
    })?;
    ensure!(!world.node(1).device_peers()?.contains(&key), "a restart brings it back");

    if how == "refused" {
        world.node(1).admit_rpc()?;
    } else {
        world.node(1).restore_rpc()?;
    }
    world.wait("node 1 to read the contract itself", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(status.verdict.ready && status.registry.removed_by_peers.is_empty(), "{:?}", status.warnings);
        Ok(())
    })?;
    ensure!(!world.node(1).device_peers()?.contains(&key), "the contract has not listed it since");
    world.close()?;
    Ok(took)
}
