//! Where nodes are reached: an endpoint that was found, one over IPv6, and none at all.

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Traffic, World};

use crate::PATIENCE;

/// One finds its endpoint by itself, one is reached over IPv6, one has none and reaches out.
#[test]
fn endpoints_may_be_automatic_ipv6_or_absent() -> Result<()> {
    let mut world = World::new(3)?;
    "auto".clone_into(&mut world.node_mut(1).settings.endpoint);
    "[fd00:d57a::12]:51821".clone_into(&mut world.node_mut(2).settings.endpoint);
    "none".clone_into(&mut world.node_mut(3).settings.endpoint);
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    for to in 1..=3 {
        let servers = Traffic::serve(world.binaries(), world.node(to), world.node(to).address()?)?;
        for from in (1..=3).filter(|&from| from != to) {
            servers
                .exchange(world.binaries(), world.node(from))
                .with_context(|| format!("from node {from} to {to}"))?;
        }
    }
    let cluster = world.operate(&["nodes"])?;
    let registered = |node: usize| -> Result<_> {
        let token = world.node(node).token()?;
        let nodes = cluster["nodes"].as_array().context("`meshctl nodes` printed no nodes")?;
        let entry = nodes.iter().find(|entry| entry["token_id"] == token).context("it lists no such token")?;
        Ok(entry["peer"]["endpoint"].as_str().map(str::to_owned))
    };
    ensure!(registered(1)? == Some(world.node(1).endpoint().to_string()), "node 1 registered {:?}", registered(1)?);
    ensure!(registered(2)?.as_deref() == Some("[fd00:d57a::12]:51821"), "node 2 registered {:?}", registered(2)?);
    ensure!(registered(3)?.is_none(), "node 3 registered {:?}", registered(3)?);
    world.close()
}
