//! Clients on all nodes, and the answers they got.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Process, World};
use serde::Deserialize;

use crate::{
    PATIENCE,
    counters::{Counters, INCREMENTS, address, get},
};

/// One on each node, which counts at all of them.
pub(crate) struct Clients(Vec<Process>);

/// An increment that was acknowledged to its client.
#[derive(Debug, Deserialize)]
struct Acknowledged {
    /// When, Unix milliseconds.
    at: u64,
    client: String,
    request: u64,
    value: u64,
    leader: usize,
}

impl Clients {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let nodes: Vec<usize> = world.nodes().iter().map(|node| node.index()).collect();
        let addresses = nodes.iter().map(|&node| address(world, node)).collect::<Result<Vec<_>>>()?;
        let start = |&node: &usize| {
            let host = world.node(node);
            // Each begins at its own node.
            let turns = addresses.iter().cycle().skip(node - 1).take(addresses.len()).map(ToString::to_string);
            let launch = host.namespace.launch(INCREMENTS).args(["count", &format!("client-{node}")]).args(turns);
            launch.start(&host.dir().join("increments.log"))
        };
        nodes.iter().map(start).collect::<Result<_>>().map(Self)
    }

    fn acknowledged(&self) -> Result<Vec<Acknowledged>> {
        let mut acknowledged = Vec::new();
        for client in &self.0 {
            let log = client.log();
            // What is still being written has no end yet.
            for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                acknowledged.push(serde_json::from_str(line).with_context(|| format!("a client says: {log}"))?);
            }
        }
        Ok(acknowledged)
    }

    pub(crate) fn until_more(&self, world: &World, more: usize) -> Result<()> {
        let target = self.acknowledged()?.len() + more;
        let counted = || {
            let count = self.acknowledged()?.len();
            ensure!(count >= target, "{count} of {target}");
            Ok(())
        };
        world.wait("increments to be acknowledged", PATIENCE, counted).map(drop)
    }

    /// When another leader than `old` acknowledged something, after `since`.
    pub(crate) fn until_another_leads(&self, world: &World, old: usize, since: SystemTime) -> Result<SystemTime> {
        let others = || {
            let acknowledged = self.acknowledged()?;
            let at = |one: &Acknowledged| UNIX_EPOCH + Duration::from_millis(one.at);
            let first = acknowledged.iter().filter(|one| one.leader != old).map(at).filter(|at| *at > since).min();
            first.context("no other leader yet")
        };
        Ok(world.wait("another leader to serve", PATIENCE, others)?.0)
    }

    /// Ends them, and compares the answers they got with each node's log: each increment that was acknowledged is there, in its
    /// place, which no other one has.
    pub(crate) fn check(self, world: &World, counters: &Counters) -> Result<()> {
        let acknowledged = self.acknowledged()?;
        drop(self);
        let values: BTreeSet<u64> = acknowledged.iter().map(|one| one.value).collect();
        ensure!(values.len() == acknowledged.len(), "two increments made one count: {acknowledged:?}");
        let most = values.last().copied().unwrap_or(0);
        for node in 1..=world.nodes().len() {
            // What was under way when its client ended may still be counted.
            let places = counters.wait(world, &format!("node {node} to have all that counts"), || {
                let places = places(world, node)?;
                let value = get(world, node, "/counter")?["value"].as_u64();
                ensure!(value == Some(places.len() as u64), "it counts {value:?}, and its log {}", places.len());
                ensure!(value >= Some(most), "{value:?} of {most}");
                Ok(places)
            })?;
            for one in &acknowledged {
                let place = places.get(&(one.client.clone(), one.request));
                ensure!(place == Some(&one.value), "node {node} has it at {place:?}: {one:?}");
            }
        }
        Ok(())
    }
}

/// Which count each increment in a node's log makes: the first time that it is there, all others being repetitions.
fn places(world: &World, node: usize) -> Result<BTreeMap<(String, u64), u64>> {
    let (mut places, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = get(world, node, &format!("/log?after={after}"))?;
        let entries = page["entries"].as_array().with_context(|| format!("no entries: {page}"))?;
        if entries.is_empty() {
            return Ok(places);
        }
        after += entries.len();
        for entry in entries {
            let increment = &entry["operation"]["increment"];
            if let (Some(client), Some(request)) = (increment["client"].as_str(), increment["request"].as_u64()) {
                let next = places.len() as u64 + 1;
                places.entry((client.to_owned(), request)).or_insert(next);
            }
        }
    }
}
