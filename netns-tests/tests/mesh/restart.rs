//! An agent dies and comes back; meanwhile nothing leaves in clear.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::VerdictState;
use netns_tests::{Capture, Flood, World, stall_clock};

use crate::{CUT_LIMIT, PATIENCE};

/// Inner packets, or questions for inner addresses, on the underlay.
const IN_CLEAR: &str = "net 10.0.1.0/24 or (arp and arp[24:4] & 0xffffff00 = 0x0a000100)";

#[test]
fn kill_9_and_restart_changes_nothing_and_leaks_nothing() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let payer = world.member_address(1)?;
    let identity = |world: &World| -> Result<_> {
        let own = world.node(1).status()?.own;
        Ok((own.public_key, own.address, own.key_epoch, world.chain.transaction_count(&payer)?))
    };
    let before = identity(&world)?;
    let clear = Capture::start(world.node(1), "eth0", IN_CLEAR)?;
    let sender = world.flood(1, world.node(2).address()?)?;

    world.node_mut(1).kill()?;
    ensure!(!world.node(1).has_interface()?, "the interface must go with the process");
    sender.goes_on(&world)?;
    ensure!(clear.packets().is_empty(), "leaked after kill -9: {:?}", clear.packets());

    let restarted = Instant::now();
    world.node_mut(1).start()?;
    for address in [2, 3].map(|other| world.node(other).address()) {
        world.wait_echo(1, address?, PATIENCE)?;
    }
    let took = stall_clock::since(restarted);
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    ensure!(took <= CUT_LIMIT, "whole again {took:?} after the restart, the limit is {CUT_LIMIT:?}");
    println!("measured: whole again {took:.2?} after the restart");
    ensure!(
        identity(&world)? == before,
        "key, address, epoch or transactions: {before:?}, then {:?}",
        identity(&world)?
    );
    sender.goes_on(&world)?;
    ensure!(clear.packets().is_empty(), "leaked around the restart: {:?}", clear.packets());

    only_leaving_opens(&mut world, 1, &sender, &clear)
}

#[test]
fn a_fenced_node_leaks_nothing() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let clear = Capture::start(world.node(2), "eth0", IN_CLEAR)?;
    let sender = world.flood(2, world.node(1).address()?)?;
    let token = world.node(2).token()?.to_string();
    world.operate(&["revoke", &token])?;
    world.wait("node 2 to fence itself", PATIENCE, || {
        ensure!(world.node(2).status()?.verdict.state == VerdictState::Fenced, "not fenced yet");
        ensure!(!world.node(2).has_interface()?, "the interface is still there");
        Ok(())
    })?;
    sender.goes_on(&world)?;
    ensure!(clear.packets().is_empty(), "leaked while fenced: {:?}", clear.packets());

    // A fenced agent that is killed and started again is still fenced, and still leaks nothing.
    world.node_mut(2).restart()?;
    world.wait("node 2 to be fenced after a restart", PATIENCE, || {
        ensure!(world.node(2).status()?.verdict.state == VerdictState::Fenced, "not fenced");
        Ok(())
    })?;
    sender.goes_on(&world)?;
    ensure!(clear.packets().is_empty(), "leaked while fenced: {:?}", clear.packets());

    // What its owner does on chain lets it in again.
    world.operate(&["reinstate", &token])?;
    world.operate(&["bind", "--token", &token, "--instance", &world.instance(2)?])?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    ensure!(clear.packets().is_empty(), "leaked on the way back: {:?}", clear.packets());

    only_leaving_opens(&mut world, 2, &sender, &clear)
}

/// An orderly stop leaks nothing either. The control: with the guard gone the same sender does leave in clear, so the capture would
/// have seen it.
fn only_leaving_opens(world: &mut World, node: usize, sender: &Flood, clear: &Capture) -> Result<()> {
    world.node_mut(node).stop()?;
    sender.goes_on(world)?;
    ensure!(clear.packets().is_empty(), "leaked after an orderly stop: {:?}", clear.packets());
    world.node(node).leave()?.success()?;
    world.wait("the control packets", PATIENCE, || {
        (!clear.packets().is_empty()).then_some(()).context("the capture sees nothing: the test proves nothing")
    })?;
    Ok(())
}
