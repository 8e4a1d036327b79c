//! What the agent's process may do.

use anyhow::Result;
use netns_tests::{World, has_only_capabilities};

use crate::PATIENCE;

/// `CAP_NET_ADMIN` in the kernel's masks (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn every_thread_keeps_net_admin_alone_and_that_is_enough() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    for node in 1..=2 {
        has_only_capabilities(world.node(node).pid()?, NET_ADMIN)?;
    }
    // Interface, addresses, routes and rules are made again by an agent that has given up all other capabilities.
    world.node(1).namespace.ip(&format!("link delete {}", world.node(1).interface()))?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    has_only_capabilities(world.node(1).pid()?, NET_ADMIN)?;
    world.close()
}
