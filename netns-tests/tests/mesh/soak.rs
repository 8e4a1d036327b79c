//! Faults in random order: whatever happened, in the end the members, and only they, form a full mesh.

use std::{collections::BTreeSet, env};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Signal, World};

use crate::PATIENCE;

const NODES: usize = 4;
/// In every test run; `make soak` sets `SOAK_STEPS`.
const STEPS: u64 = 6;
const SEED: u64 = 7;

#[test]
fn soak_after_any_sequence_of_faults_the_members_form_a_full_mesh() -> Result<()> {
    let number = |name: &str, default| match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}=`{text}` is not a number")),
        _ => Ok(default),
    };
    let (seed, steps) = (number("SOAK_SEED", SEED)?, number("SOAK_STEPS", STEPS)?);
    let mut random = Random(seed);
    let mut world = World::new(NODES)?;
    for node in 1..=NODES {
        world.join(node)?;
    }
    let mut members: BTreeSet<usize> = (1..=NODES).collect();
    is_whole(&world, &members)?;
    for step in 0..steps {
        let fault = Fault::draw(&mut random, &members);
        println!("seed {seed}, step {step}: {fault:?}");
        happens(&mut world, fault, &mut members)
            .and_then(|()| is_whole(&world, &members))
            .with_context(|| format!("step {step}, {fault:?}; repeat with SOAK_SEED={seed} SOAK_STEPS={}", step + 1))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillAndRestart(usize),
    StopAndStart(usize),
    CutAndHeal(usize),
    FreezeAgent(usize),
    FreezeChain,
    LoseRpc(usize),
    EmptyBlocks,
    ReorgOfEmptyBlocks,
    Revoke(usize),
    Readmit(usize),
}

impl Fault {
    fn draw(random: &mut Random, members: &BTreeSet<usize>) -> Self {
        let outsiders: Vec<usize> = (1..=NODES).filter(|node| !members.contains(node)).collect();
        let all: Vec<usize> = members.iter().copied().collect();
        let member = all[random.below(all.len())];
        match random.below(10) {
            0 => Self::KillAndRestart(member),
            1 => Self::StopAndStart(member),
            2 => Self::CutAndHeal(member),
            3 => Self::FreezeAgent(member),
            4 => Self::FreezeChain,
            5 => Self::LoseRpc(member),
            6 => Self::EmptyBlocks,
            7 => Self::ReorgOfEmptyBlocks,
            // Two nodes at least: one alone is no mesh.
            8 if members.len() > 2 => Self::Revoke(member),
            _ => outsiders.first().map_or(Self::KillAndRestart(member), |&node| Self::Readmit(node)),
        }
    }
}

fn happens(world: &mut World, fault: Fault, members: &mut BTreeSet<usize>) -> Result<()> {
    match fault {
        Fault::KillAndRestart(node) => world.node_mut(node).restart(),
        Fault::StopAndStart(node) => {
            let status = world.node_mut(node).stop()?;
            ensure!(status.success(), "node {node} ended with {status}");
            world.node_mut(node).start()
        }
        Fault::CutAndHeal(node) => {
            world.cut(node)?;
            unreachable_from_a_member(world, node, members)?;
            world.heal(node)
        }
        Fault::FreezeAgent(node) => {
            world.node_mut(node).signal(Signal::Stop)?;
            unreachable_from_a_member(world, node, members)?;
            world.node_mut(node).signal(Signal::Continue)
        }
        Fault::FreezeChain => {
            world.chain.freeze()?;
            let whole = is_connected(world, members);
            world.chain.thaw()?;
            whole
        }
        Fault::LoseRpc(node) => {
            world.node(node).silence_rpc()?;
            let whole = is_connected(world, members);
            world.node(node).restore_rpc()?;
            whole
        }
        Fault::EmptyBlocks => world.chain.mine(100),
        Fault::ReorgOfEmptyBlocks => {
            world.chain.mine(5)?;
            is_connected(world, members)?;
            world.chain.reorg(5).map(drop)
        }
        Fault::Revoke(node) => {
            let token = world.node(node).token()?.to_string();
            world.operate(&["revoke", &token])?;
            members.remove(&node);
            Ok(())
        }
        Fault::Readmit(node) => {
            let token = world.node(node).token()?.to_string();
            world.operate(&["reinstate", &token])?;
            world.operate(&["bind", "--token", &token, "--instance", &world.instance(node)?])?;
            members.insert(node);
            world.node_mut(node).restart()
        }
    }
}

fn unreachable_from_a_member(world: &World, node: usize, members: &BTreeSet<usize>) -> Result<()> {
    let other = members.iter().copied().find(|&member| member != node).context("nobody else is left")?;
    let address = world.mesh_address(node)?;
    world.wait(&format!("node {node} to be out of reach"), PATIENCE, || {
        ensure!(world.node(other).ping(address).is_err(), "node {other} still reaches it");
        Ok(())
    })?;
    Ok(())
}

fn is_connected(world: &World, members: &BTreeSet<usize>) -> Result<()> {
    for &from in members {
        for &to in members {
            world.node(from).ping(world.node(to).address()?)?;
        }
    }
    Ok(())
}

/// The reference model is a set: members reach each other, and their devices hold nobody else.
fn is_whole(world: &World, members: &BTreeSet<usize>) -> Result<()> {
    let all: Vec<usize> = members.iter().copied().collect();
    world.wait_full_mesh(&all, PATIENCE)?;
    world.wait("devices to hold the members and nobody else", PATIENCE, || {
        for &node in members {
            let mut expected = Vec::new();
            for &other in members.iter().filter(|&&other| other != node) {
                expected.push(world.node(other).status()?.own.public_key.to_string());
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

/// splitmix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
