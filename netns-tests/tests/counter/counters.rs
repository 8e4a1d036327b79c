//! A counter on each node of a world.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Binaries, Finished, Process, Signal, World};
use serde_json::Value;

use crate::PATIENCE;

pub(crate) const PORT: u16 = 8080;
/// The counter's clients.
pub(crate) const INCREMENTS: &str = env!("CARGO_BIN_EXE_increments");

pub(crate) struct Counters {
    running: BTreeMap<usize, Process>,
    program: PathBuf,
    founders: String,
}

/// Where the counter of a node answers.
pub(crate) fn address(world: &World, node: usize) -> Result<SocketAddr> {
    Ok(SocketAddr::new(world.node(node).address()?.into(), PORT))
}

/// What the counter of a node says, asked from that node.
pub(crate) fn get(world: &World, node: usize, path: &str) -> Result<Value> {
    let address = address(world, node)?.to_string();
    let answer = world.node(node).namespace.launch(INCREMENTS).args(["get", &address, path]).finish(PATIENCE);
    let text = answer.and_then(Finished::success)?;
    serde_json::from_str(&text).with_context(|| format!("read what node {node} answers to {path}: {text}"))
}

/// Why the counter of a node is unhealthy, by its own word to another node; `None` where it is healthy.
pub(crate) fn health_seen_from(world: &World, node: usize, other: usize) -> Result<Option<String>> {
    let address = address(world, node)?.to_string();
    let look = world.node(other).namespace.launch(INCREMENTS).args(["health", &address]).finish(PATIENCE);
    let text = look.and_then(Finished::success)?;
    let health: Value =
        serde_json::from_str(&text).with_context(|| format!("read the health of node {node}: {text}"))?;
    Ok(health["reason"].as_str().map(str::to_owned))
}

impl Counters {
    /// One on each node, none of which has been waited for.
    pub(crate) fn start(world: &World) -> Result<Self> {
        let nodes = 1..=world.nodes().len();
        let founders =
            nodes.clone().map(|node| Ok(world.node(node).token()?.to_string())).collect::<Result<Vec<_>>>()?;
        let program = Binaries::built("counter")?;
        let mut counters = Self { running: BTreeMap::new(), program, founders: founders.join(",") };
        for node in nodes {
            counters.start_node(world, node)?;
        }
        Ok(counters)
    }

    /// At first, and after its end.
    pub(crate) fn start_node(&mut self, world: &World, node: usize) -> Result<()> {
        let host = world.node(node);
        let launch = host.namespace.launch(&self.program).args(["--founders", &self.founders]);
        let launch = launch.args(["--port", &PORT.to_string()]).arg("--agent-socket").arg(host.socket());
        let process =
            launch.arg("--data-dir").arg(host.dir().join("counter")).start(&host.dir().join("counter.log"))?;
        self.running.insert(node, process);
        Ok(())
    }

    pub(crate) fn kill(&mut self, node: usize) -> Result<()> {
        let mut process = self.running.remove(&node).with_context(|| format!("node {node} has no counter"))?;
        process.signal(Signal::Kill)?;
        process.wait(PATIENCE).map(drop)
    }

    /// Until an increment would be taken everywhere.
    pub(crate) fn until_healthy(&self, world: &World) -> Result<()> {
        for &node in self.running.keys() {
            self.wait(world, &format!("the counter of node {node} to be healthy"), || {
                get(world, node, "/health").map(drop)
            })?;
        }
        Ok(())
    }

    /// Term and node of the leader, which all nodes have heard of.
    pub(crate) fn leader(&self, world: &World) -> Result<(u64, usize)> {
        self.wait(world, "all nodes to follow one leader", || {
            let mut seats = Vec::new();
            for node in 1..=world.nodes().len() {
                let status = get(world, node, "/status")?;
                ensure!(status["works"] == true, "node {node}: {status}");
                let seat = (&status["promise"]["term"], &status["promise"]["leader"]);
                let seat = (seat.0.as_u64(), seat.1.as_u64().and_then(|token| usize::try_from(token).ok()));
                seats.push(seat.0.zip(seat.1).with_context(|| format!("node {node}: {status}"))?);
            }
            ensure!(seats.iter().all(|seat| *seat == seats[0]), "{seats:?}");
            // Tokens are minted in the order of the nodes.
            Ok(seats[0])
        })
    }

    /// Until a node that was away follows a leader of such a term, or leads in it.
    pub(crate) fn until_follows(&self, world: &World, node: usize, term: u64) -> Result<()> {
        self.wait(world, &format!("node {node} to follow"), || {
            let status = get(world, node, "/status")?;
            let promised = status["promise"]["term"].as_u64().unwrap_or(0);
            ensure!(promised >= term && status["works"] == true, "term {term} is not there yet: {status}");
            Ok(())
        })
    }

    /// As `World::wait`; the counters' own words are in the error.
    pub(crate) fn wait<T>(&self, world: &World, what: &str, look: impl FnMut() -> Result<T>) -> Result<T> {
        let outcome = world.wait(what, PATIENCE, look).map(|(value, _)| value);
        outcome.with_context(|| {
            let log = |(node, counter): (&usize, &Process)| format!("--- counter {node}\n{}\n", counter.log_tail(30));
            self.running.iter().map(log).collect::<String>()
        })
    }
}
