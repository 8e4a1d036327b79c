//! UDP ports that no operator named.

use anyhow::{Context as _, Result, ensure};
use mesh_core::listen_port::listen_port;
use netns_tests::World;

use crate::PATIENCE;

#[test]
fn nodes_without_a_named_port_have_different_ones_and_register_them() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        let settings = &mut world.node_mut(node).settings;
        settings.listen_port = None;
        "auto".clone_into(&mut settings.endpoint);
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;

    let nodes = world.operate(&["nodes"])?;
    let mut ports = Vec::new();
    for node in 1..=2 {
        let port = listen_port(world.instance(node)?.parse()?);
        ensure!(world.node(node).status()?.agent.listen_port == Some(port), "node {node} does not listen at {port}");
        let token = world.node(node).token()?;
        let listed = nodes["nodes"].as_array().context("no nodes are listed")?;
        let listed = listed.iter().find(|listed| listed["token_id"] == token).context("the node is not listed")?;
        let registered = format!("{}:{port}", world.node(node).underlay());
        ensure!(listed["peer"]["endpoint"] == registered, "node {node} registered {}", listed["peer"]);
        ports.push(port);
    }
    ensure!(ports[0] != ports[1], "both have {}", ports[0]);
    world.close()
}
