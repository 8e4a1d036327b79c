//! `nat`: two nodes, each behind a router that translates its addresses and lets nothing in that was not asked for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_core::status::PathKind;
use netns_tests::{Capture, ClearText, Traffic, World, stall_clock};

use crate::{PATIENCE, is_on, let_pass, moment, path};

/// From the gateway path, or from the first word on the own address, to the direct path.
const PUNCHED: Duration = Duration::from_secs(10);
/// In which nodes that can find no direct path have tried twice.
const TRIED: Duration = Duration::from_secs(8);

#[test]
fn nat_direct_path_is_punched_soon_after_the_gateway_path_is_up() -> Result<()> {
    let mut world = two_behind_routers(0)?;
    world.add_stun()?;
    let clear = ClearText::watch(&world)?;
    // The control: unsolicited packets are not let in, so that both ends have to send.
    let unasked = Capture::start(world.node(1), "eth0", "udp and src host 192.0.2.1 and not src port 3478")?;
    let log = world.dir().join("flood.log");
    let flood = world.hub().launch(&world.binaries().traffic).args(["udp-flood", "192.0.2.11:40100"]).start(&log)?;

    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait("the gateway path", PATIENCE, || works(&world, [1, 2], PathKind::Gateway))?;
    let up = Instant::now();
    world.wait("the direct path", PATIENCE, || works(&world, [1, 2], PathKind::Direct))?;
    let took = stall_clock::since(up);
    println!("measured: nat: direct path found {took:.2?} after the gateway path was up");
    ensure!(took <= PUNCHED, "direct path after {took:?}, the limit is {PUNCHED:?}");

    is_used(&world, [1, 2])?;
    let sent = flood.log().lines().last().and_then(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
    ensure!(sent.is_some_and(|sent| sent > 500), "the flood sent {sent:?} datagrams: this proves nothing");
    ensure!(unasked.packets().is_empty(), "the router lets everything in: {:?}", unasked.packets());
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

#[test]
fn nat_nodes_that_no_server_tells_their_addresses_learn_them_from_a_third_node() -> Result<()> {
    let mut world = two_behind_routers(1)?;
    let clear = ClearText::watch(&world)?;
    for node in 2..=3 {
        world.join(node)?;
    }
    world.wait("the gateway path", PATIENCE, || works(&world, [2, 3], PathKind::Gateway))?;
    // The control: by themselves they do not find each other.
    let_pass(&world, TRIED)?;
    for (node, other) in [(2, 3), (3, 2)] {
        let peer = world.node(node).peer(world.node(other).address()?)?;
        ensure!(!path(&peer, PathKind::Direct)?.usable, "node {node} found the path without help: {:?}", peer.paths);
    }

    world.join(1)?;
    world.wait("direct paths to the node in the open", PATIENCE, || {
        works(&world, [1, 2], PathKind::Direct)?;
        works(&world, [1, 3], PathKind::Direct)
    })?;
    let begun = Instant::now();
    world.wait("the direct path", PATIENCE, || works(&world, [2, 3], PathKind::Direct))?;
    let took = stall_clock::since(begun);
    println!("measured: nat: direct path found {took:.2?} after a third node saw both");
    ensure!(took <= PUNCHED, "direct path after {took:?}, the limit is {PUNCHED:?}");

    is_used(&world, [2, 3])?;
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

/// So many nodes in the open, two more behind a router each, and a gateway that all reach.
fn two_behind_routers(in_the_open: usize) -> Result<World> {
    let mut world = World::new(in_the_open)?;
    for _ in 0..2 {
        world.add_node_behind_router()?;
    }
    world.add_gateway(&[])?;
    Ok(world)
}

/// Both say that this path between them may be relied on.
fn works(world: &World, [first, second]: [usize; 2], kind: PathKind) -> Result<()> {
    for (node, other) in [(first, second), (second, first)] {
        let peer = world.node(node).peer(world.node(other).address()?)?;
        ensure!(path(&peer, kind)?.usable, "node {node}: {:?}", peer.paths);
    }
    Ok(())
}

/// A path is not only found but used.
fn is_used(world: &World, [first, second]: [usize; 2]) -> Result<()> {
    let servers = Traffic::serve(world.binaries(), world.node(second), world.node(second).address()?)?;
    let mut flow = servers.udp_flow(world.binaries(), world.node(first))?;
    let since = moment(world)?;
    for (node, other) in [(first, second), (second, first)] {
        let peer = world.node(other).address()?;
        let look = || is_on(world, node, peer, PathKind::Direct, &since);
        world.wait("packets to take the direct path", PATIENCE, look)?;
    }
    flow.is_sound()
}
