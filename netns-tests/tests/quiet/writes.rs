//! Clients that write all the time, on other nodes than what they write to.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::{Heartbeat, Node, Process, World};

use crate::{
    NODES, PATIENCE,
    databases::{CLIENT, Database, Databases, ETCD_NODES},
    watch::{ClusterNode, cluster_nodes},
};

struct Client {
    kind: Database,
    name: String,
    process: Process,
}

/// Dropping it ends them.
pub(crate) struct Writes(Vec<Client>);

impl Writes {
    /// One for each master of Redis, and one for each member of etcd.
    pub(crate) fn start(world: &World, databases: &Databases) -> Result<Self> {
        let mut clients = Vec::new();
        for own in cluster_nodes(world, databases, 1)?.iter().filter(|own| !own.is_replica()) {
            let is_own = |&node: &usize| databases.address(Database::Redis, node).ip().to_string() == own.address;
            let node = databases.nodes(Database::Redis).find(is_own).context("a master on no node")?;
            let (from, key) = (world.node(node % NODES + 1), key_of(world, databases, own)?);
            clients.push(Client::start(from, Database::Redis, databases.address(Database::Redis, node), &key)?);
        }
        for node in databases.nodes(Database::Etcd) {
            let (from, key) = (world.node(ETCD_NODES + node), format!("count-{node}"));
            clients.push(Client::start(from, Database::Etcd, databases.address(Database::Etcd, node), &key)?);
        }
        let count = |kind| clients.iter().filter(|client| client.kind == kind).count();
        ensure!(count(Database::Redis) >= 3 && count(Database::Etcd) == ETCD_NODES, "there is too little to write to");
        Ok(Self(clients))
    }

    /// Clients that ended, because an answer was wrong or the connection broke.
    pub(crate) fn ended(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for client in &mut self.0 {
            if let Some(status) = client.process.exited()? {
                let log = client.process.log();
                let why = log.find("Error: ").map_or("", |at| &log[at..]);
                ended.push(format!("{} ended with {status}: {}", client.name, why.trim()));
            }
        }
        Ok(ended)
    }

    /// Each wrote something from beginning to end since then.
    pub(crate) fn all_wrote_since(&self, since: SystemTime) -> Result<()> {
        for client in &self.0 {
            // The first one may have begun earlier.
            let written = client.written().into_iter().filter(|at| *at > since).count();
            ensure!(written >= 2, "{}: {}", client.name, client.process.log_tail(1));
        }
        Ok(())
    }

    /// Until each has written something.
    pub(crate) fn wait(&self, world: &World) -> Result<()> {
        let since = SystemTime::now();
        world.wait("all clients to write", PATIENCE, || self.all_wrote_since(since)).map(drop)
    }

    /// The longest time between these moments in which one of them wrote nothing, but for stalls of the machine.
    pub(crate) fn longest_gap(
        &self,
        kind: Database,
        heartbeat: &Heartbeat,
        from: SystemTime,
        to: SystemTime,
    ) -> Duration {
        let clients = self.0.iter().filter(|client| client.kind == kind);
        clients.map(|client| heartbeat.longest_gap(client.written(), from, to)).max().unwrap_or_default()
    }
}

impl Client {
    fn start(from: &Node, kind: Database, to: SocketAddr, key: &str) -> Result<Self> {
        let verb = format!("write-{kind:?}").to_lowercase();
        let log = (0..).map(|number| from.dir().join(format!("{verb}-{number}.log")));
        let log = log.into_iter().find(|log| !log.exists()).context("no name is free")?;
        let process = from
            .namespace
            .launch(CLIENT)
            .env("RUST_LIB_BACKTRACE", "0")
            .args([&verb, &to.to_string(), key])
            .start(&log)?;
        Ok(Self { kind, name: format!("{kind:?} client on node {} of {to}", from.index()), process })
    }

    fn written(&self) -> Vec<SystemTime> {
        let log = self.process.log();
        let at = |line: &str| line.strip_prefix("written ")?.split(' ').next()?.parse().ok();
        log.lines().filter_map(at).map(|at| UNIX_EPOCH + Duration::from_millis(at)).collect()
    }
}

/// A key that this master has.
fn key_of(world: &World, databases: &Databases, master: &ClusterNode) -> Result<String> {
    for number in 0..1000 {
        let key = format!("count-{number}");
        let slot = databases.ask_redis(world, 1, &["CLUSTER", "KEYSLOT", &key])?;
        if master.has_slot(slot.trim().parse().with_context(|| format!("read `{slot}`"))?) {
            return Ok(key);
        }
    }
    bail!("no key is in a slot of {}", master.address)
}
