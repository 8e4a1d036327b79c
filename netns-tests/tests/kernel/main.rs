//! The mesh over the kernel's own WireGuard, `--tunnel kernel`. Needs root and a kernel that has it, and fails without: `make nightly`
//! runs it in a virtual machine (`.ci/in-virtual-machine`).

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::{PeerState, VerdictState};
use netns_tests::World;

/// An emulated processor is slow.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longer than two keepalives and a time-out of a handshake are apart: what an idle device says of itself has changed by then.
const IDLE: Duration = Duration::from_secs(75);
const NODES: [usize; 3] = [1, 2, 3];

#[test]
fn an_idle_mesh_over_the_kernels_device_stays_up() -> Result<()> {
    // The agent loads no modules: it says that it misses one.
    let loaded = Command::new("modprobe").arg("wireguard").status().context("run modprobe")?;
    ensure!(loaded.success(), "this kernel has no WireGuard: run this by `make nightly ONLY=kernel`");
    let mut world = World::new(NODES.len())?;
    for node in NODES {
        world.node_mut(node).settings.extra.extend(["--tunnel", "kernel"].map(str::to_owned));
        world.join(node)?;
    }
    world.wait_full_mesh(&NODES, PATIENCE)?;
    for node in NODES {
        let shown = world.node(node).namespace.ip(&format!("-d link show {}", world.node(node).interface()))?;
        ensure!(shown.contains("wireguard"), "the interface of node {node} is not the kernel's: {shown}");
    }
    world.wait("all nodes to be ready", PATIENCE, || NODES.into_iter().try_for_each(|node| is_up(&world, node)))?;

    // Nothing but keepalives passes from now on.
    let until = Instant::now() + IDLE;
    let mut looks = 0;
    while Instant::now() < until {
        for node in NODES {
            is_up(&world, node).with_context(|| format!("{:?} before the end", until - Instant::now()))?;
            let said = world.node(node).meshctl(&["status"])?;
            ensure!(
                said.status.success(),
                "`meshctl status` of node {node} ends with {}: {}",
                said.status,
                said.stdout
            );
            looks += 1;
        }
        // The device is idle between two looks.
        thread::sleep(Duration::from_secs(1));
    }
    println!("measured: an idle mesh over the kernel's WireGuard was up at each of {looks} looks in {IDLE:?}");

    // And a node that is revoked is off the kernel's devices as well.
    let key = world.node(3).public_key()?.to_string();
    let token = world.node(3).token()?.to_string();
    world.operate(&["revoke", "--token", &token])?;
    world.wait("node 3 to be off the devices", PATIENCE, || {
        for node in [1, 2] {
            ensure!(!world.node(node).device_peers()?.contains(&key), "node {node} still has it");
        }
        ensure!(!world.node(3).has_interface()?, "node 3 still has its device");
        Ok(())
    })?;
    world.close()
}

fn is_up(world: &World, node: usize) -> Result<()> {
    let status = world.node(node).status()?;
    let down: Vec<_> = status
        .peers
        .iter()
        .filter(|peer| !matches!(peer.state, PeerState::Up | PeerState::Idle))
        .map(|peer| (peer.token_id, peer.state))
        .collect();
    ensure!(
        status.verdict.state != VerdictState::Down && status.peers.len() == NODES.len() - 1 && down.is_empty(),
        "node {node}: {:?}, {down:?}, {:?}",
        status.verdict,
        status.warnings
    );
    Ok(())
}
