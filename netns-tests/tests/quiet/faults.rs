//! Faults as they happen to a world.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::MembershipState;
use netns_tests::{DirectFault, World};

use crate::{
    NODES, PATIENCE, SPARES,
    plan::{Fault, Kind, Outage},
};

/// How long the contract cannot be read.
const OUTAGE: Duration = Duration::from_secs(60);

impl Fault {
    /// From its beginning to its end; what it broke need not be whole again. How long it really lasted.
    pub(crate) fn happen(&self, world: &mut World) -> Result<Duration> {
        let began = Instant::now();
        match self.kind {
            Kind::Direct(fault) => {
                world.begin(fault)?;
                sleep(self.lasts);
                world.end(fault)?;
            }
            Kind::Uplink { of } => {
                world.cut(of)?;
                sleep(self.lasts);
                world.heal(of)?;
            }
            Kind::CutOff { of } => {
                cut_off(world, of)?;
                sleep(self.lasts);
                reconnect(world, of)?;
            }
            Kind::GatewayKilled => {
                world.gateway_mut()?.kill()?;
                sleep(self.lasts);
                world.gateway_mut()?.start()?;
            }
            Kind::GatewayCrashed => {
                world.gateway_mut()?.crash()?;
                sleep(self.lasts);
                world.gateway_mut()?.reboot()?;
            }
            Kind::AgentKilled { of } => {
                world.node_mut(of).kill()?;
                sleep(self.lasts);
                world.node_mut(of).start()?;
            }
            Kind::Members { joins } => {
                let spares: Vec<usize> = (NODES + 1..=NODES + SPARES).collect();
                for _ in 0..joins / SPARES {
                    come_and_go(world, &spares)?;
                }
            }
        }
        Ok(began.elapsed())
    }
}

/// Takes both paths from a node.
pub(crate) fn cut_off(world: &mut World, node: usize) -> Result<()> {
    world.begin(DirectFault::LinkDown { of: node })?;
    world.cut(node)
}

/// Gives them back.
pub(crate) fn reconnect(world: &mut World, node: usize) -> Result<()> {
    world.heal(node)?;
    world.end(DirectFault::LinkDown { of: node })
}

/// All of them join as new machines, and are revoked when they are ready.
fn come_and_go(world: &mut World, spares: &[usize]) -> Result<()> {
    let mut tokens = Vec::new();
    for &node in spares {
        let state = world.node(node).state_dir();
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))?;
        }
        tokens.push(world.join(node)?.to_string());
    }
    world.wait("the nodes that join to be ready", PATIENCE, || {
        for &node in spares {
            let status = world.node(node).status()?;
            ensure!(status.verdict.ready, "node {node}: {:?}", status.verdict.state);
        }
        Ok(())
    })?;
    for token in &tokens {
        world.operate(&["revoke", token])?;
    }
    world.wait("the nodes that leave to know it", PATIENCE, || {
        for &node in spares {
            let membership = world.node(node).status()?.own.membership;
            ensure!(membership == MembershipState::Fenced, "node {node}: {membership:?}");
        }
        Ok(())
    })?;
    for &node in spares {
        let status = world.node_mut(node).stop()?.status;
        ensure!(status.success(), "the agent of node {node} ended with {status}");
    }
    Ok(())
}

/// An RPC outage that goes on.
pub(crate) struct Ongoing {
    outage: Outage,
    since: Instant,
}

impl Outage {
    /// It begins.
    pub(crate) fn begin(self, world: &World) -> Result<Ongoing> {
        for &node in &self.nodes {
            let node = world.node(node);
            if self.refused { node.refuse_rpc() } else { node.silence_rpc() }?;
        }
        Ok(Ongoing { outage: self, since: Instant::now() })
    }
}

impl Ongoing {
    /// Waits until it has lasted long enough and every node concerned says so; returns how long it lasted.
    pub(crate) fn end(self, world: &World) -> Result<Duration> {
        sleep(OUTAGE.saturating_sub(self.since.elapsed()));
        world.wait("nodes to say that they cannot read the contract", PATIENCE, || {
            for &node in &self.outage.nodes {
                let registry = world.node(node).status()?.registry;
                ensure!(!registry.freshness.fresh, "node {node} has read it: {:?}", registry.block);
            }
            Ok(())
        })?;
        for &node in &self.outage.nodes {
            let node = world.node(node);
            if self.outage.refused { node.admit_rpc() } else { node.restore_rpc() }?;
        }
        Ok(self.since.elapsed())
    }
}
