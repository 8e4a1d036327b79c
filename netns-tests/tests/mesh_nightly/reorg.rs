//! The chain takes a registration back.

use anyhow::{Result, ensure};
use netns_tests::{World, stall_clock};

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
