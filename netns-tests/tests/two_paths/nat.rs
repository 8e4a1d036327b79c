//! `nat`: two nodes, each behind a router that translates its addresses and lets nothing in that was not asked for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_core::status::PathKind;
use netns_tests::{Capture, ClearText, Traffic, World, awake_since};

use crate::{PATIENCE, is_on, moment, path};

/// From the gateway path to the direct one.
const PUNCHED: Duration = Duration::from_secs(10);

#[test]
fn nat_direct_path_is_punched_soon_after_the_gateway_path_is_up() -> Result<()> {
    let mut world = World::new(0)?;
    for _ in 1..=2 {
        world.add_node_behind_router()?;
    }
    world.add_gateway(&[])?;
    world.add_stun()?;
    let clear = ClearText::watch(&world)?;
    // The control: what nobody asked for is not let in, so that it takes both ends to get through.
    let unasked = Capture::start(world.node(1), "eth0", "udp and src host 192.0.2.1 and not src port 3478")?;
    let log = world.dir().join("flood.log");
    let flood = world.hub().launch(&world.binaries().traffic).args(["udp-flood", "192.0.2.11:40100"]).start(&log)?;

    for node in 1..=2 {
        world.join(node)?;
    }
    let is_usable = |kind: PathKind| -> Result<()> {
        for node in 1..=2 {
            let peer = world.node(node).peer(world.node(3 - node).address()?)?;
            ensure!(path(&peer, kind)?.usable, "node {node}: {:?}", peer.paths);
        }
        Ok(())
    };
    world.wait("the gateway path", PATIENCE, || is_usable(PathKind::Gateway))?;
    let up = Instant::now();
    world.wait("the direct path", PATIENCE, || is_usable(PathKind::Direct))?;
    let took = awake_since(up);
    println!("measured: nat: direct path found {took:.2?} after the gateway path was up");
    ensure!(took <= PUNCHED, "direct path after {took:?}, the limit is {PUNCHED:?}");

    // And it is not only found but used.
    let servers = Traffic::serve(world.binaries(), world.node(2), world.node(2).address()?)?;
    let mut flow = servers.udp_flow(world.binaries(), world.node(1))?;
    let since = moment(&world)?;
    for (node, peer) in [(1, 2), (2, 1)] {
        let peer = world.node(peer).address()?;
        world.wait("packets to take the direct path", PATIENCE, || {
            is_on(&world, node, peer, PathKind::Direct, &since)
        })?;
    }
    flow.is_sound()?;
    let sent = flood.log().lines().last().and_then(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
    ensure!(sent.is_some_and(|sent| sent > 500), "the flood sent {sent:?} datagrams: this proves nothing");
    ensure!(unasked.packets().is_empty(), "the router lets everything in: {:?}", unasked.packets());
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}
