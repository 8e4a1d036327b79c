//! A node that waits for funds, on a real chain.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::{World, stall_clock};

use crate::PATIENCE;

/// From the block that brings them until the agent knows.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn funds_are_noticed_within_two_seconds_of_their_block() -> Result<()> {
    let mut world = World::new(2)?;
    // One hears of blocks, the other asks.
    world.node_mut(2).settings.rpc_urls = vec![world.chain.http_url()];
    for node in 1..=2 {
        world.mint(node)?;
        world.node_mut(node).start()?;
        let address = world.member_address(node)?;
        let missing = format!("waits for funds or a relayer: member address {address} has 0 ether, about 0.");
        let logged = |words: &str| -> Result<()> {
            let log = world.node(node).log();
            ensure!(log.to_lowercase().contains(&words.to_lowercase()), "no `{words}` in the log");
            Ok(())
        };
        world.wait("the log to say what is missing", PATIENCE, || logged(&missing))?;
        world.fund(node)?;
        world.chain.mine(1)?;
        let block = Instant::now();
        world.wait("the funds to be noticed", PATIENCE, || logged("the member address was funded"))?;
        let took = stall_clock::since(block);
        println!("measured: node {node}, {}: funds noticed after {took:.2?}", world.node(node).settings.rpc_urls[0]);
        ensure!(took <= NOTICED_WITHIN, "{took:?}");
        world.wait_ready(node, PATIENCE)?;
        world.wait("the transaction's block in the log", PATIENCE, || {
            logged("transaction is in a block call=\"registerPeer\"")
        })?;
    }
    world.close()
}
