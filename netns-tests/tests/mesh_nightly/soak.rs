//! Faults in random order: whatever happened, in the end the members, and only they, form a full mesh.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Rng, Signal, World, number};

use crate::PATIENCE;

const NODES: usize = 4;
/// In every test run; `make soak` sets `SOAK_STEPS`.
const STEPS: u64 = 6;
const SEED: u64 = 7;

#[test]
fn soak_after_any_sequence_of_faults_the_members_form_a_full_mesh() -> Result<()> {
    let (seed, steps) = (number("SOAK_SEED", SEED)?, number("SOAK_STEPS", STEPS)?);
    let mut random = Rng::new(seed);
    let mut world = World::new(NODES)?;
    let mut model = Model { members: (1..=NODES).collect(), tokens: BTreeMap::new() };
    for node in 1..=NODES {
        model.tokens.insert(node, world.join(node)?);
    }
    is_whole(&world, &model.members)?;
    for step in 0..steps {
        let faults = model.draw(&mut random);
        println!("seed {seed}, step {step}: {faults:?}");
        happen(&mut world, &faults, &mut model).and_then(|()| is_whole(&world, &model.members)).with_context(|| {
            format!("step {step}, {faults:?}; repeat with SOAK_SEED={seed} SOAK_STEPS={}", step + 1)
        })?;
    }
    Ok(())
}

/// Faults that begin, last, and end. Those of one step overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed(usize),
    Stopped(usize),
    CutOff(usize),
    AgentFrozen(usize),
    ChainFrozen,
    RpcSilent(usize),
    EmptyBlocks,
    EmptyBlocksTakenBack,
    Revoked(usize),
    Readmitted(usize),
}

/// What the members should be: a set is the whole reference model.
struct Model {
    members: BTreeSet<usize>,
    tokens: BTreeMap<usize, u32>,
}

impl Model {
    /// One to three faults, each of another node.
    fn draw(&self, random: &mut Rng) -> Vec<Fault> {
        let mut nodes: Vec<usize> = (1..=NODES).collect();
        let mut members = self.members.len();
        let mut faults = Vec::new();
        for _ in 0..=random.below(3) {
            let node = nodes.swap_remove(random.below(nodes.len()));
            let fault = match random.below(10) {
                _ if !self.members.contains(&node) => Fault::Readmitted(node),
                0 => Fault::Killed(node),
                1 => Fault::Stopped(node),
                2 => Fault::CutOff(node),
                3 => Fault::AgentFrozen(node),
                4 => Fault::RpcSilent(node),
                5 => Fault::ChainFrozen,
                6 => Fault::EmptyBlocks,
                7 => Fault::EmptyBlocksTakenBack,
                // Two members at least: one alone is no mesh.
                _ if members > 2 => {
                    members -= 1;
                    Fault::Revoked(node)
                }
                _ => Fault::Killed(node),
            };
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        // A frozen chain takes no transactions.
        if faults.contains(&Fault::ChainFrozen) {
            faults.retain(|fault| !fault.is_of_the_chain());
            faults.push(Fault::ChainFrozen);
        }
        faults
    }
}

impl Fault {
    const fn is_of_the_chain(self) -> bool {
        match self {
            Self::ChainFrozen
            | Self::EmptyBlocks
            | Self::EmptyBlocksTakenBack
            | Self::Revoked(_)
            | Self::Readmitted(_) => true,
            Self::Killed(_) | Self::Stopped(_) | Self::CutOff(_) | Self::AgentFrozen(_) | Self::RpcSilent(_) => false,
        }
    }

    fn begin(self, world: &mut World, model: &mut Model) -> Result<()> {
        match self {
            Self::Killed(node) => world.node_mut(node).kill(),
            Self::Stopped(node) => {
                let status = world.node_mut(node).stop()?.status;
                ensure!(status.success(), "node {node} ended with {status}");
                Ok(())
            }
            Self::CutOff(node) => world.cut(node),
            Self::AgentFrozen(node) => world.node_mut(node).signal(Signal::Stop),
            Self::RpcSilent(node) => world.node(node).silence_rpc(),
            Self::ChainFrozen => world.chain.freeze(),
            Self::EmptyBlocks => world.chain.mine(100),
            Self::EmptyBlocksTakenBack => {
                world.chain.mine(5)?;
                world.chain.reorg(5).map(drop)
            }
            Self::Revoked(node) => {
                world.operate(&["revoke", &model.tokens[&node].to_string()])?;
                model.members.remove(&node);
                Ok(())
            }
            Self::Readmitted(node) => {
                let token = model.tokens[&node].to_string();
                world.operate(&["reinstate", &token])?;
                world.operate(&["bind", "--token", &token, "--instance", &world.instance(node)?])?;
                model.members.insert(node);
                world.node_mut(node).kill()
            }
        }
    }

    fn end(self, world: &mut World) -> Result<()> {
        match self {
            Self::Killed(node) | Self::Stopped(node) | Self::Readmitted(node) => world.node_mut(node).start(),
            Self::CutOff(node) => world.heal(node),
            Self::AgentFrozen(node) => world.node_mut(node).signal(Signal::Continue),
            Self::RpcSilent(node) => world.node(node).restore_rpc(),
            Self::ChainFrozen => world.chain.thaw(),
            Self::EmptyBlocks | Self::EmptyBlocksTakenBack | Self::Revoked(_) => Ok(()),
        }
    }
}

fn happen(world: &mut World, faults: &[Fault], model: &mut Model) -> Result<()> {
    let before = model.members.clone();
    for fault in faults {
        fault.begin(world, model)?;
    }
    // While the faults last, the other nodes do not notice.
    let concerned = |node: &usize| {
        let of_node =
            [Fault::Killed, Fault::Stopped, Fault::CutOff, Fault::AgentFrozen, Fault::Revoked, Fault::Readmitted];
        of_node.iter().any(|fault| faults.contains(&fault(*node)))
    };
    let unconcerned = before.into_iter().filter(|node| !concerned(node)).collect();
    is_connected(world, &unconcerned)?;
    faults.iter().try_for_each(|fault| fault.end(world))
}

fn is_connected(world: &World, members: &BTreeSet<usize>) -> Result<()> {
    for &from in members {
        for &to in members {
            world.node(from).ping(world.node(to).address()?)?;
        }
    }
    Ok(())
}

/// The reference model is a set: members reach each other, and their devices hold no other peers.
fn is_whole(world: &World, members: &BTreeSet<usize>) -> Result<()> {
    let all: Vec<usize> = members.iter().copied().collect();
    world.wait_full_mesh(&all, PATIENCE)?;
    world.wait("devices to hold the members and no other peers", PATIENCE, || {
        for &node in members {
            let mut expected = Vec::new();
            for &other in members.iter().filter(|&&other| other != node) {
                expected.push(world.node(other).public_key()?.to_string());
            }
            expected.sort();
            let device = world.node(node).device_peers()?;
            ensure!(device == expected, "node {node} holds {device:?}, expected {expected:?}");
        }
        for outsider in (1..=NODES).filter(|node| !members.contains(node)) {
            ensure!(!world.node(outsider).has_interface()?, "node {outsider} is out and has its interface");
        }
        Ok(())
    })?;
    Ok(())
}
