//! What the product does with hostile members, endpoints and neighbours, and after every kind of fault: in network namespaces, each
//! test for as long as it takes. `make nightly` runs them.
//!
//! Needs root, and fails without. Every test has a world of its own; many run side by side because they mostly wait.

mod bad_members;
mod bad_starts;
mod endpoints;
mod funds;
mod leftovers;
mod malicious_rpc;
mod many;
mod memory;
mod outsider;
mod prometheus;
mod reorg;
mod rpc_outage;
mod secrets;
mod sibling;
mod single_rpc;
mod soak;
mod starting;
mod stopping;
mod tls_mode;
mod told;

use std::time::Duration;

use anyhow::Result;
use netns_tests::{MaliciousRpc, World};

/// For everything that is not measured: a busy machine may be slow, and an agent tries a transaction again after half a minute if
/// it got no answer while the machine stalled.
const PATIENCE: Duration = Duration::from_secs(150);
/// From a leaver's block until no node accepts its packets; and from a restart until the mesh is whole.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// Two nodes in a mesh, the first with a proxy as its only RPC endpoint, which is honest so far.
fn mesh_with_a_proxy() -> Result<(World, MaliciousRpc)> {
    let mut world = World::new(2)?;
    let rpc = world.malicious_rpc(9545)?;
    world.node_mut(1).settings.rpc_urls = vec![rpc.url().to_owned()];
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok((world, rpc))
}
