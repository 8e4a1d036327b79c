//! An agent dies while its applications go on: nothing of theirs leaves in clear, by whatever path it went.

use anyhow::{Result, ensure};
use mesh_core::status::PathKind;
use netns_tests::{ClearText, DirectFault, Flood, World};

use crate::{PATIENCE, is_on, moment};

#[test]
fn guard_lets_nothing_out_while_an_agent_that_had_two_paths_is_dead() -> Result<()> {
    let mut world = World::with_two_paths(PATIENCE)?;
    let clear = ClearText::watch(&world)?;
    let (own, peer) = (world.node(1).address()?, world.node(2).address()?);
    for kind in [PathKind::Direct, PathKind::Gateway] {
        if kind == PathKind::Gateway {
            world.begin(DirectFault::Silence)?;
        }
        let sender = Flood::start(world.binaries(), world.node(1), peer)?;
        let since = moment(&world)?;
        world.wait("node 1 to use the path", PATIENCE, || is_on(&world, 1, peer, kind, &since))?;

        world.node_mut(1).kill()?;
        ensure!(!world.node(1).has_interface()?, "the interface must go with the process");
        sender.goes_on(&world)?;
        clear.ensure_none()?;
        world.node_mut(1).start()?;
        world.wait_full_mesh(&[1, 2], PATIENCE)?;
        ensure!(world.node(1).address()? == own, "another address after the restart");
        sender.goes_on(&world)?;
        clear.ensure_none()?;
    }
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}
