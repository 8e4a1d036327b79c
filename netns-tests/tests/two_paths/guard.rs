//! An agent dies while its applications go on: nothing of theirs leaves in clear, by whatever path it went.

use anyhow::{Result, ensure};
use mesh_core::status::PathKind;
use netns_tests::{ClearText, DirectFault, Process, World};

use crate::{PATIENCE, dual::two_nodes_with_two_paths, is_on, moment};

#[test]
fn guard_lets_nothing_out_while_an_agent_that_had_two_paths_is_dead() -> Result<()> {
    let mut world = two_nodes_with_two_paths()?;
    let clear = ClearText::watch(&world)?;
    let (own, peer) = (world.node(1).address()?, world.node(2).address()?);
    for kind in [PathKind::Direct, PathKind::Gateway] {
        if kind == PathKind::Gateway {
            world.begin(DirectFault::Silence)?;
        }
        let log = world.node(1).dir().join(format!("flood-{kind:?}.log"));
        let flood = world.node(1).namespace.launch(&world.binaries().traffic);
        let sender = flood.args(["udp-flood", &format!("{peer}:9")]).start(&log)?;
        let since = moment(&world)?;
        world.wait("node 1 to use the path", PATIENCE, || is_on(&world, 1, peer, kind, &since))?;

        world.node_mut(1).kill()?;
        ensure!(!world.node(1).has_interface()?, "the interface must go with the process");
        goes_on(&world, &sender)?;
        clear.ensure_none()?;
        world.node_mut(1).start()?;
        world.wait_full_mesh(&[1, 2], PATIENCE)?;
        ensure!(world.node(1).address()? == own, "another address after the restart");
        goes_on(&world, &sender)?;
        clear.ensure_none()?;
    }
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

/// Waits until the sender has tried 500 more times: sent or refused, it does not pause.
fn goes_on(world: &World, sender: &Process) -> Result<()> {
    let tried = || -> Option<u64> {
        let log = sender.log();
        let mut words = log.lines().last()?.split_whitespace().skip(2);
        Some(words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?)
    };
    let before = tried().unwrap_or(0);
    world.wait("the sender to go on", PATIENCE, || {
        let more = tried().unwrap_or(0).saturating_sub(before);
        ensure!(more > 500, "only {more} more");
        Ok(())
    })?;
    Ok(())
}
