//! `moving`: a host goes from address to address, and agents stop: how soon their peers know.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use mesh_core::status::{PeerState, Reason};
use netns_tests::{Heartbeat, Traffic, World, stall_clock};

use crate::{PATIENCE, let_pass};

/// In 19 of 20 cases a peer is known so soon to be elsewhere, or to have stopped ...
const KNOWN_P95: Duration = Duration::from_secs(1);
/// ... and in any.
const KNOWN: Duration = Duration::from_secs(3);
/// Moves without any traffic, and as many under traffic.
const MOVES: usize = 10;
const STOPS: usize = 5;
/// From one move to the next.
const REST: Duration = Duration::from_secs(3);

#[test]
fn moving_host_is_reached_at_once() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let mesh_address = world.node(1).address()?;
    let mut places = (100..).map(|last| Ipv4Addr::new(192, 0, 2, last));

    let mut idle = Vec::new();
    for place in places.by_ref().take(MOVES) {
        let_pass(&world, REST)?;
        idle.push(moves(&mut world, mesh_address, place)?);
    }
    judge("moving: an idle node was reached at its new address", &mut idle)?;

    let servers = Traffic::serve(world.binaries(), world.node(2), world.node(2).address()?)?;
    let heartbeat = Heartbeat::start(world.binaries(), world.node(3))?;
    let mut flow = servers.udp_flow(world.binaries(), world.node(1))?;
    let (mut loaded, mut gaps) = (Vec::new(), Vec::new());
    for place in places.take(MOVES) {
        let_pass(&world, REST)?;
        let from = SystemTime::now();
        loaded.push(moves(&mut world, mesh_address, place)?);
        world.wait("packets again", PATIENCE, || flow.flows_since(SystemTime::now() - Duration::from_millis(50)))?;
        gaps.push(flow.longest_gap(&heartbeat, from, SystemTime::now()));
    }
    flow.is_sound()?;
    judge("moving: a busy node was reached at its new address", &mut loaded)?;
    judge("moving: nothing got through", &mut gaps)?;
    world.close()
}

#[test]
fn moving_on_a_node_that_stops_says_so() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let stopping = world.node(3).address()?;
    let (mut known, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..STOPS {
        let_pass(&world, REST)?;
        let begun = Instant::now();
        ends.push(world.node_mut(3).stop()?.took);
        world.wait("its peers to show it as stopped", PATIENCE, || {
            for node in [1, 2] {
                let peer = world.node(node).peer(stopping)?;
                let shown = (peer.state, peer.path, peer.path_reason);
                ensure!(shown == (PeerState::Stopped, None, Some(Reason::PeerStopped)), "node {node} shows {shown:?}");
            }
            Ok(())
        })?;
        known.push(stall_clock::since(begun));
        let warned = world.node(1).status()?.warnings;
        ensure!(warned.iter().all(|warning| warning.peer.is_none()), "{warned:?}");
        world.node_mut(3).start()?;
        world.wait("its peers to show that it is back", PATIENCE, || {
            for node in [1, 2] {
                let peer = world.node(node).peer(stopping)?;
                ensure!(peer.state == PeerState::Up && peer.flaps_1h == 0, "node {node} shows {peer:?}");
            }
            Ok(())
        })?;
    }
    judge("moving: a stop took", &mut ends)?;
    judge("moving: a node was shown as stopped", &mut known)?;
    world.close()
}

/// Node 1 goes to that address: how long it took from then until both others send there.
fn moves(world: &mut World, mesh_address: Ipv4Addr, place: Ipv4Addr) -> Result<Duration> {
    world.move_node(1, place)?;
    let moved = Instant::now();
    let there = format!("{place}:");
    world.wait("the others to send to the new address", PATIENCE, || {
        for node in [2, 3] {
            // Asked of the device: the agent looks at it once a second.
            let endpoints = world.node(node).wg_show("endpoints")?;
            ensure!(endpoints.contains(&there), "node {node} sends to {endpoints}");
        }
        Ok(())
    })?;
    let took = stall_clock::since(moved);
    for node in [2, 3] {
        world.node(node).ping_within(mesh_address, KNOWN_P95)?;
    }
    Ok(took)
}

fn judge(what: &str, times: &mut [Duration]) -> Result<()> {
    times.sort();
    let (p95, longest) = (times[(times.len() * 95).div_ceil(100) - 1], times[times.len() - 1]);
    println!("measured: {what}: median {:.2?}, p95 {p95:.2?}, longest {longest:.2?}", times[times.len() / 2]);
    ensure!(p95 <= KNOWN_P95, "{what}: the p95 is {p95:?}, the limit is {KNOWN_P95:?}");
    ensure!(longest <= KNOWN, "{what}: {longest:?}, the limit is {KNOWN:?}");
    Ok(())
}
