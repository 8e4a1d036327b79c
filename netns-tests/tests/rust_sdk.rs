//! The Rust SDK against real agents, a real contract and real tunnels. Needs root, and fails without.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dstack_p2p::{DstackP2p, Error, PeerLists, Stage};
use netns_tests::World;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// A busy machine may be slow.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn the_three_lines_from_before_the_mint_until_the_revocation() -> Result<()> {
    let mut world = World::new(3)?;
    world.join(2)?;
    world.fund(1)?;
    world.node_mut(1).start()?;
    let none: [&str; 0] = [];
    let builder = DstackP2p::builder(world.contract(), "wireguard").socket(world.node(1).socket()).agent(none);
    let sdk = builder.agent_within(PATIENCE).restart_within(PATIENCE).build()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;

    // The SDK names the operator's next command, and the operator runs it.
    let mut reported = None;
    let mut minted = None;
    let registering = sdk.register_within(Some(PATIENCE), |step| {
        if step.stage == Stage::NoToken && minted.is_none() {
            reported = step.command.clone();
            minted = Some(world.mint(1));
        }
    });
    let member = runtime.block_on(registering)?;
    let token = minted.context("the application did not hear that a token is missing")??;
    let command = reported.context("no command was reported")?;
    ensure!(command.starts_with("meshctl mint ") && command.contains(&world.instance(1)?), "{command}");
    ensure!(member.token_id.get() == token && member.address == Some(world.node(1).address()?), "{member:?}");
    world.wait_echo(1, world.node(2).address()?, PATIENCE)?;

    ensure!(runtime.block_on(sdk.get_peers())? == addresses(&world, &[2])?);
    let mut lists = sdk.monitor_peers();
    let first = next(&runtime, &mut lists)?;
    ensure!(first == addresses(&world, &[2])?, "{first:?}");
    // A restart changes nothing, and what changes meanwhile is reported.
    world.node_mut(1).restart()?;
    world.join(3)?;
    let second = next(&runtime, &mut lists)?;
    ensure!(second == addresses(&world, &[2, 3])?, "{second:?}");
    let (own, other) = (token.to_string(), world.node(2).token()?.to_string());
    world.operate(&["revoke", &other])?;
    let third = next(&runtime, &mut lists)?;
    ensure!(third == addresses(&world, &[3])?, "{third:?}");
    world.operate(&["revoke", &own])?;
    let last = next(&runtime, &mut lists)?;
    ensure!(last.is_empty(), "{last:?}");
    match runtime.block_on(sdk.get_peers()) {
        Err(Error::NotAMember(advice)) => ensure!(advice.command.is_some(), "{advice}"),
        other => anyhow::bail!("a node that was shut out gets {other:?}"),
    }
    Ok(())
}

fn next(runtime: &Runtime, lists: &mut PeerLists) -> Result<Vec<String>> {
    let list = runtime.block_on(async { timeout(PATIENCE, lists.next()).await });
    Ok(list.context("no list came")?.context("the lists ended")??)
}

/// In the order in which an application gets them: ascending by token, which is the order of joining.
fn addresses(world: &World, nodes: &[usize]) -> Result<Vec<String>> {
    nodes.iter().map(|&node| Ok(world.node(node).address()?.to_string())).collect()
}
