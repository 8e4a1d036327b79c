//! Databases on a mesh do not notice what happens to it: Redis Cluster (`cluster-node-timeout` 5 s) and etcd (500 ms and 5 s), as
//! `examples/` starts them, while paths break for 2.5 s at most, agents are killed, the contract cannot be read for a minute, and other
//! nodes join and leave. No election, no failover, no replication lost, and no client hears anything wrong.
//!
//! ```text
//!   hub: anvil, gateway ── bridge ──┬── nodes 1 to 3   etcd, Redis ──┐
//!                                   ├── nodes 4 to 6   Redis ────────┼── network for direct UDP (node 1 behind a router)
//!                                   └── nodes 7 and 8  come and go ──┘
//! ```
//!
//! 30 faults are drawn from a seed: `SOAK_SEED` repeats a run, `QUIET_RUNS` says how many seeds there are, from that one on. Needs root,
//! and fails without.
//!
//! **A machine that stalls** does to databases what no mesh can prevent: what is left of 5 s after a fault of 2.5 s is a second or so.
//! An incident is this test's failure, unless the machine itself stalled for a second in that round, or was so slow that the fault
//! lasted longer than it should have. Then the same fault happens again, a few times at most: every fault that was drawn is
//! survived once, without an incident, or the test fails.
#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]

mod databases;
mod faults;
mod peace;
mod plan;
mod watch;
mod writes;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::PathKind;
use netns_tests::{Rng, World, number};

use peace::Peace;
use plan::FAULTS;

/// With databases.
const NODES: usize = 6;
/// That come and go.
const SPARES: usize = 2;
/// For everything that is not measured: a busy machine may be slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// In every test run; `make soak` sets `QUIET_RUNS` and `SOAK_SEED`.
const RUNS: u64 = 1;
const SEED: u64 = 1;

#[test]
fn databases_are_left_in_peace() -> Result<()> {
    let (first, runs) = (number("SOAK_SEED", SEED)?, number("QUIET_RUNS", RUNS)?);
    for seed in (first..).take(usize::try_from(runs)?) {
        run(seed).with_context(|| format!("repeat with SOAK_SEED={seed} QUIET_RUNS=1"))?;
    }
    Ok(())
}

fn run(seed: u64) -> Result<()> {
    let began = Instant::now();
    let chapters = plan::draw(&mut Rng::new(seed), NODES);
    let mut peace = Peace::begin(seed)?;
    println!("measured: quiet, seed {seed}: databases are up after {:.0?}", began.elapsed());
    for chapter in &chapters {
        peace.live_through(chapter)?;
    }
    ensure!(peace.faults == FAULTS, "{} faults instead of {FAULTS}", peace.faults);
    println!(
        "measured: quiet, seed {seed}: {FAULTS} faults without an incident in {:.0?}, {} of them repeated because the machine stalled; \
         longest gap of a Redis client {:.2?}, of an etcd client {:.2?}",
        began.elapsed(),
        peace.repeats,
        peace.longest[0],
        peace.longest[1]
    );
    peace.incidents_would_have_been_seen()?;
    println!("measured: quiet, seed {seed}: the whole run took {:.0?}", began.elapsed());
    Ok(())
}

/// All nodes with both paths; those with databases are members and use the direct ones, the others have not been started.
fn mesh() -> Result<World> {
    let mut world = World::new(NODES + SPARES)?;
    world.add_direct_network()?;
    world.add_gateway(&[])?;
    let members: Vec<usize> = (1..=NODES).collect();
    for node in 1..=NODES + SPARES {
        world.refuse_udp(node)?;
    }
    for &node in &members {
        world.join(node)?;
    }
    world.wait_full_mesh(&members, PATIENCE)?;
    world.wait("all nodes to use direct paths", PATIENCE, || {
        for &node in &members {
            for peer in world.node(node).status()?.peers {
                ensure!(peer.path == Some(PathKind::Direct), "node {node}: {}: {:?}", peer.name, peer.paths);
            }
        }
        Ok(())
    })?;
    Ok(world)
}
