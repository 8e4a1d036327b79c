//! etcd and Redis on the nodes of a world, as users start them: by the programs of `examples/`, which follow the contract's members.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::{Binaries, Finished, Process, Signal, World};
use serde_json::Value;

use crate::{NODES, PATIENCE};

/// Nodes that have a member of the etcd cluster, from the first on. All that keep databases have a Redis.
pub(crate) const ETCD_NODES: usize = 3;
const REDIS_MASTERS: usize = 3;
const REDIS_PORT: u16 = 6379;
const ETCD_PORT: u16 = 2379;
/// In a mount namespace that ends with the program: a disk that is slow for seconds, which stops databases, is not what this is about.
const IN_MEMORY: &str = r#"mkdir -p "$0" && mount -t tmpfs -o mode=700 tmpfs "$0" && exec "$@""#;

/// Of databases.
pub(crate) const CLIENT: &str = env!("CARGO_BIN_EXE_database-client");

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Database {
    Etcd,
    Redis,
}

/// Dropping it ends them all.
pub(crate) struct Databases {
    running: BTreeMap<(Database, usize), Process>,
    /// Of the nodes. Their agents, which know them, may be dead when they are needed.
    addresses: Vec<Ipv4Addr>,
}

impl Databases {
    /// Starts them on nodes that are members, and waits until they are clusters.
    pub(crate) fn start(world: &World) -> Result<Self> {
        for (program, package) in
            [("etcd", "etcd-server"), ("redis-server", "redis-server"), ("redis-cli", "redis-tools")]
        {
            let found = world.hub().launch("sh").args(["-c", r#"command -v "$0""#, program]).finish(PATIENCE)?;
            ensure!(found.status.success(), "`{program}` is not installed\nhint: apt-get install {package}");
        }
        let addresses = (1..=NODES).map(|node| world.node(node).address()).collect::<Result<Vec<_>>>()?;
        let founders: Vec<String> = addresses.iter().take(ETCD_NODES).map(ToString::to_string).collect();
        let (founders, masters) = (founders.join(","), REDIS_MASTERS.to_string());
        let mut databases = Self { running: BTreeMap::new(), addresses };
        for node in 1..=NODES {
            if node <= ETCD_NODES {
                databases.start_one(world, Database::Etcd, node, &["--founders", &founders])?;
            }
            databases.start_one(world, Database::Redis, node, &["--masters", &masters])?;
        }
        Ok(databases)
    }

    fn start_one(&mut self, world: &World, kind: Database, node: usize, arguments: &[&str]) -> Result<()> {
        let host = world.node(node);
        let data = host.dir().join(kind.name());
        // Databases stand for machines of their own, as agents do: what tests the network must not starve them.
        let launch = host.namespace.launch("nice").args(["-n", "-10", "sh", "-c", IN_MEMORY]).arg(&data);
        let launch = launch.arg(python()?).arg("-B").arg(member(kind)?).arg(world.contract()).args(arguments);
        let launch = launch.arg("--socket").arg(host.socket()).arg("--data-dir").arg(&data);
        let process = launch.start(&host.dir().join(format!("{}.log", kind.name())))?;
        self.running.insert((kind, node), process);
        Ok(())
    }

    /// The nodes that have such a one.
    pub(crate) fn nodes(&self, kind: Database) -> impl Iterator<Item = usize> {
        self.running.keys().filter(move |(one, _)| *one == kind).map(|(_, node)| *node)
    }

    /// What one has written so far.
    pub(crate) fn log(&self, kind: Database, node: usize) -> String {
        self.running.get(&(kind, node)).map(Process::log).unwrap_or_default()
    }

    /// The ends of all logs, for the message of a failure.
    pub(crate) fn logs(&self) -> String {
        let end = |((kind, node), process): (&(Database, usize), &Process)| {
            format!("--- {kind:?} on node {node}\n{}\n", process.log_tail(60))
        };
        self.running.iter().map(end).collect()
    }

    /// Where the one of a node answers.
    pub(crate) fn address(&self, kind: Database, node: usize) -> SocketAddr {
        SocketAddr::new(self.addresses[node - 1].into(), kind.port())
    }

    /// Their timeouts are what this test says they are: otherwise it would test something else.
    pub(crate) fn ensure_patience(&self, world: &World) -> Result<()> {
        for node in self.nodes(Database::Etcd) {
            let log = self.log(Database::Etcd, node);
            let waits =
                [r#""heartbeat-interval":"500ms""#, r#""election-timeout":"5s""#].map(|text| log.contains(text));
            ensure!(waits == [true; 2], "the etcd of node {node} has other time-outs than 500 ms and 5 s: {log}");
        }
        for node in self.nodes(Database::Redis) {
            let waits = self.ask_redis(world, node, &["CONFIG", "GET", "cluster-node-timeout"])?;
            ensure!(
                waits.lines().last() == Some("5000"),
                "the Redis of node {node} has another time-out than 5 s: {waits}"
            );
        }
        Ok(())
    }

    /// Asks them to end, and waits until they have.
    pub(crate) fn stop(mut self) -> Result<()> {
        for process in self.running.values_mut() {
            process.signal(Signal::Terminate)?;
        }
        for ((kind, node), process) in &mut self.running {
            let status = process.wait(PATIENCE)?;
            ensure!(status.success(), "{kind:?} on node {node} ended with {status}: {}", process.log_tail(5));
        }
        Ok(())
    }

    /// What the Redis of a node answers to a command.
    pub(crate) fn ask_redis(&self, world: &World, node: usize, command: &[&str]) -> Result<String> {
        let address = self.address(Database::Redis, node);
        let launch = world.node(node).namespace.launch("redis-cli").args(["-h", &address.ip().to_string()]);
        let answer = launch.args(["-p", &address.port().to_string(), "-e"]).args(command).finish(PATIENCE);
        let answer = answer.and_then(Finished::success).with_context(|| format!("ask the Redis of node {node}"))?;
        Ok(answer.replace('\r', ""))
    }

    /// What the etcd of a node says of itself.
    pub(crate) fn etcd_status(&self, world: &World, node: usize) -> Result<Value> {
        let address = self.address(Database::Etcd, node).to_string();
        let answer = world.node(node).namespace.launch(CLIENT).args(["etcd-status", &address]).finish(PATIENCE);
        let answer = answer.and_then(Finished::success).with_context(|| format!("ask the etcd of node {node}"))?;
        serde_json::from_str(&answer).with_context(|| format!("read `{answer}`"))
    }

    /// The node whose etcd leads, and the id of that member.
    pub(crate) fn etcd_leader(&self, world: &World) -> Result<(usize, String)> {
        for node in self.nodes(Database::Etcd) {
            let status = self.etcd_status(world, node)?;
            if let Some(id) = leader(&status).filter(|id| status["header"]["member_id"] == *id) {
                return Ok((node, id.to_owned()));
            }
        }
        bail!("no etcd says that it leads")
    }

    /// A node whose Redis is a master with a replica.
    pub(crate) fn redis_master(&self, world: &World) -> Result<usize> {
        for node in self.nodes(Database::Redis) {
            let role = self.ask_redis(world, node, &["INFO", "replication"])?;
            if role.contains("role:master") && role.contains("\nslave0:") {
                return Ok(node);
            }
        }
        bail!("no Redis is a master with a replica")
    }
}

impl Database {
    /// In examples/.
    const fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd/member.py",
            Self::Redis => "redis-cluster/redis_member.py",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Etcd => ETCD_PORT,
            Self::Redis => REDIS_PORT,
        }
    }
}

/// The id of the member that leads, as another one says.
pub(crate) fn leader(etcd_status: &Value) -> Option<&str> {
    etcd_status["leader"].as_str().filter(|id| *id != "0")
}

/// Python with the SDK.
fn python() -> Result<PathBuf> {
    let agent = Binaries::built("p2p-agent")?;
    let target = agent.parent().and_then(Path::parent).context("the agent is in no target directory")?;
    let python = target.join("python-venv/bin/python");
    if !python.exists() {
        bail!("`{}` is missing\nhint: sdk/python/tests/venv.sh makes it", python.display());
    }
    Ok(python)
}

fn member(kind: Database) -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(kind.program());
    fs::canonicalize(&program).with_context(|| format!("find {}", program.display()))
}
