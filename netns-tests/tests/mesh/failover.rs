//! Failover both ways: the direct path dies and the gateway carries the packets, then the gateway dies and the direct path does.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use netns_tests::{ClearText, DirectFault, Flow, Heartbeat, Traffic, World};

use crate::PATIENCE;

/// No message of an application is on its way for longer than this, whichever path dies.
const GAP: Duration = Duration::from_secs(3);

#[test]
fn applications_outlive_the_direct_path_and_then_the_gateway() -> Result<()> {
    let mut world = World::with_two_paths(PATIENCE)?;
    let clear = ClearText::watch(&world)?;
    let servers = Traffic::serve(world.binaries(), world.node(2), world.node(2).address()?)?;
    let (binaries, client) = (world.binaries(), world.node(1));
    let heartbeat = Heartbeat::start(binaries, client)?;
    let mut flows = [servers.udp_flow(binaries, client)?, servers.tcp_flow(binaries, client)?];

    let died = SystemTime::now();
    world.begin(DirectFault::Silence)?;
    resumes(&world, &flows, &heartbeat, "the direct path", died)?;

    // The stream ends with the process, so that the agents know at once that the gateway is gone.
    world.end(DirectFault::Silence)?;
    let died = SystemTime::now();
    world.gateway_mut()?.kill()?;
    resumes(&world, &flows, &heartbeat, "the gateway", died)?;

    flows.iter_mut().try_for_each(Flow::is_sound)?;
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

/// Messages come back again soon after a path died. Echoes of before are not on their way for longer than [`MARGIN`].
fn resumes(world: &World, flows: &[Flow], heartbeat: &Heartbeat, what: &str, died: SystemTime) -> Result<()> {
    const MARGIN: Duration = Duration::from_millis(300);
    for flow in flows {
        world.wait(&format!("packets after {what} died"), PATIENCE, || flow.flows_since(died + MARGIN))?;
    }
    let now = SystemTime::now();
    for flow in flows {
        let gap = flow.longest_gap(heartbeat, died, now);
        println!("measured: {} after {what} died: nothing for {gap:.2?}", flow.name());
        ensure!(gap <= GAP, "{}: nothing for {gap:?} after {what} died, the limit is {GAP:?}", flow.name());
    }
    Ok(())
}
