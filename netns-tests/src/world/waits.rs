//! Waiting for nodes: each wait ends as soon as it can, and says everything there is to know when it fails.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::status::Status;

use super::World;
use testkit::{interrupted, wait_until};

use crate::{node::Node, uapi};

/// First tries to reach each other are 2 s apart at most.
const SETTLED: Duration = Duration::from_millis(2200);
/// For pings that are repeated until they are answered: brief at first, because a node may not be there yet, longer each time,
/// because the machine may be slow.
const FIRST_ECHO: Duration = Duration::from_millis(100);
const LAST_ECHO: Duration = Duration::from_secs(5);

impl World {
    /// Polls until `look` succeeds; when it does not in time, prints everything there is to know.
    pub fn wait<T>(&self, what: &str, deadline: Duration, look: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
        wait_until(what, deadline, look).inspect_err(|error| {
            if !interrupted() {
                self.print_diagnostics(&format!("{error:#}"));
            }
        })
    }

    /// Waits until a node says that it is ready.
    pub fn wait_ready(&self, node: usize, deadline: Duration) -> Result<Status> {
        let (status, _) = self.wait(&format!("node {node} to be ready"), deadline, || {
            let status = self.node(node).status()?;
            ensure!(status.verdict.ready, "{:?}, {:?}", status.own.membership, status.warnings);
            Ok(status)
        })?;
        Ok(status)
    }

    /// Waits until these nodes form a full mesh: each says it is ready and every ordered pair pings.
    pub fn wait_full_mesh(&self, members: &[usize], deadline: Duration) -> Result<Duration> {
        let mut patience = FIRST_ECHO;
        let ((), took) = self.wait(&format!("a full mesh of nodes {members:?}"), deadline, || {
            let mut addresses = Vec::new();
            for &member in members {
                let status = self.node(member).status()?;
                if !status.verdict.ready {
                    bail!("node {member} is not ready: {:?}", status.verdict.state);
                }
                addresses.push(status.own.address.with_context(|| format!("node {member} has no address"))?);
            }
            for &member in members {
                addresses.iter().try_for_each(|&address| self.ping_patiently(member, address, &mut patience))?;
            }
            Ok(())
        })?;
        Ok(took)
    }

    /// Waits until these nodes have had no handshake for a while: on a busy machine an answer to one of the first tries may
    /// still be on its way, and begins another session. Returns what `wg show latest-handshakes` says on each node.
    pub fn wait_settled(&self, nodes: &[usize], deadline: Duration) -> Result<Vec<String>> {
        self.wait("the sessions to be the last that the first tries led to", deadline, || {
            for &node in nodes {
                let socket = self.node(node).uapi_socket();
                let newest = uapi::latest_handshake(&socket)?.with_context(|| format!("node {node} has no session"))?;
                let age = SystemTime::now().duration_since(newest).unwrap_or_default();
                ensure!(age > SETTLED, "a session of node {node} is only {age:?} old");
            }
            nodes.iter().map(|&node| self.node(node).wg_show("latest-handshakes")).collect()
        })
        .map(|(shown, _)| shown)
    }

    /// Waits until a node's agent has saved so many peers, so that it can be killed and come up with them again.
    pub fn wait_saved(&self, node: usize, peers: usize, deadline: Duration) -> Result<()> {
        let what = format!("node {node} to have saved {peers} peers");
        let look = || {
            let saved = self.node(node).saved_peers()?;
            ensure!(saved == peers, "they are {saved}");
            Ok(())
        };
        self.wait(&what, deadline, look).map(drop)
    }

    /// Pings from a node until the first answer.
    pub fn wait_echo(&self, from: usize, to: Ipv4Addr, deadline: Duration) -> Result<()> {
        let mut patience = FIRST_ECHO;
        let ping = || self.ping_patiently(from, to, &mut patience);
        self.wait(&format!("node {from} to reach {to}"), deadline, ping).map(drop)
    }

    /// One ping. Where no answer came in that time, the next ping gets twice as much.
    fn ping_patiently(&self, from: usize, to: Ipv4Addr, patience: &mut Duration) -> Result<()> {
        let (asked, limit) = (Instant::now(), *patience);
        self.node(from).ping_within(to, limit).inspect_err(|_| {
            if asked.elapsed() >= limit {
                *patience = LAST_ECHO.min(limit * 2);
            }
        })
    }

    #[expect(clippy::print_stderr, reason = "a failed test is explained where the test runner shows it")]
    fn print_diagnostics(&self, error: &str) {
        let nodes: String = self.nodes.iter().map(Node::diagnostics).collect();
        let head = self.chain.block_number().map_or_else(|e| format!("{e:#}"), |n| n.to_string());
        eprintln!("=== {error}\n=== world {}, contract {}, head {head}\n{nodes}", self.id, self.contract);
    }
}
