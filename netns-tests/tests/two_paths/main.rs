//! Two paths and one address: the product in network namespaces where direct UDP is broken, translated or not to be had at all.
//!
//! ```text
//!   hub: anvil ── bridge ──┬── gateway
//!                          ├── node 1 ── router ─┐
//!                          ├── node 2 ───────────┴─ network for direct UDP (dual)
//!                          ├── node 3              no UDP comes in (gw)
//!                          └── router ── node …    behind address translation (nat)
//! ```
//!
//! Needs root, and fails without. What is measured is what an application sees: the longest time in which nothing came back.
#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]

mod dual;
mod gateway;
mod guard;
mod moving;
mod nat;

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::{PathKind, PathStatus, PeerStatus};
use netns_tests::{World, stall_clock};

/// For everything that is not measured: a busy machine may be slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is known of one path.
fn path(peer: &PeerStatus, kind: PathKind) -> Result<&PathStatus> {
    let found = peer.paths.iter().find(|path| path.kind == kind);
    found.with_context(|| format!("{} has no {kind:?} path: {:?}", peer.name, peer.paths))
}

/// This moment, as nodes write it.
fn moment(world: &World) -> Result<String> {
    Ok(world.node(1).status()?.generated_at)
}

/// A node sends to a peer by this path, which was proved to work after that moment.
fn is_on(world: &World, node: usize, peer: Ipv4Addr, kind: PathKind, since: &str) -> Result<()> {
    let peer = world.node(node).peer(peer)?;
    ensure!(peer.path == Some(kind), "node {node} uses {:?}: {:?}", peer.path, peer.paths);
    let path = path(&peer, kind)?;
    // RFC 3339 in UTC, all of one length.
    let is_proved = path.last_ok_at.as_ref().is_some_and(|proved| proved.as_str() > since);
    ensure!(path.usable && is_proved, "node {node}: not proved since {since}: {path:?}");
    Ok(())
}

/// How often a node has changed its path to a peer.
fn switches(world: &World, node: usize, peer: Ipv4Addr) -> Result<u64> {
    let token = format!("token=\"{}\"", world.node(node).peer(peer)?.token_id);
    let (_, metrics) = world.node(node).get("/metrics")?;
    let is_of_peer = |line: &&str| line.starts_with("p2p_path_switches_total{") && line.contains(&token);
    let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    let counts = metrics.lines().filter(is_of_peer).map(|line| count(line).with_context(|| format!("read `{line}`")));
    Ok(counts.collect::<Result<Vec<f64>>>()?.into_iter().sum::<f64>() as u64)
}

/// Time between two looks at a status while something is measured: it costs the agent some work.
const LOOK: Duration = Duration::from_millis(200);

/// Lets so much time pass in which the machine runs.
fn let_pass(world: &World, time: Duration) -> Result<()> {
    let start = Instant::now();
    let passed = || (stall_clock::since(start) >= time).then_some(()).context("not yet");
    world.wait("time to pass", time + PATIENCE, passed).map(drop)
}
