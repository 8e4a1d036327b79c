//! What databases say of themselves that must not change while they are left in peace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::World;

use crate::databases::{Database, Databases, leader};

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Incident {
    /// etcd: a member asked for votes, or there is another leader.
    Election,
    /// Redis Cluster: a node is said to have failed, a node asked for votes, or another node is master.
    Failover,
    /// Redis: a replica's connection with its master was lost.
    ReplicationLost,
}

/// What etcd writes down about elections, those that lead to nothing included.
const ELECTION: [&str; 5] =
    ["is starting a new election", "became candidate", "became pre-candidate", "lost leader", "elected leader"];
/// What Redis writes down about failures and elections.
const FAILOVER: [&str; 6] = [
    "Marking node",
    "FAIL message received",
    "Start of election",
    "Starting a failover election",
    "Failover auth",
    "Cluster state changed",
];
/// And about replication.
const REPLICATION: [&str; 5] = [
    "Connection with master lost",
    "Connection with replica",
    "MASTER timeout",
    "timedout replica",
    "REPLICA sync started",
];

/// What they said at one moment, each thing under a name: whatever is different later has changed in between, because terms, epochs,
/// counters and logs never go back.
#[derive(Debug, Clone)]
pub(crate) struct Words(BTreeMap<(Incident, String), String>);

impl Words {
    /// Asks them all. An error says what is wrong at this moment, which may pass.
    pub(crate) fn of(world: &World, databases: &Databases) -> Result<Self> {
        let mut words = BTreeMap::new();
        for node in databases.nodes(Database::Etcd) {
            let status = databases.etcd_status(world, node)?;
            let mut say = |what: &str, value: String| {
                words.insert((Incident::Election, format!("etcd on node {node}: {what}")), value);
            };
            let leader = leader(&status).with_context(|| format!("node {node} follows no leader: {status}"))?;
            say("leader", leader.to_owned());
            say("term", status["raftTerm"].to_string());
            say("log", mentions(&databases.log(Database::Etcd, node), &ELECTION));
        }
        for node in databases.nodes(Database::Redis) {
            let mut say = |incident, what: &str, value: &str| {
                words.insert((incident, format!("Redis on node {node}: {what}")), value.to_owned());
            };
            let info = databases.ask_redis(world, node, &["INFO"])?;
            let cluster = databases.ask_redis(world, node, &["CLUSTER", "INFO"])?;
            ensure!(field(&cluster, "cluster_state")? == "ok", "node {node}: {cluster}");
            for name in ["cluster_current_epoch", "cluster_my_epoch"] {
                say(Incident::Failover, name, field(&cluster, name)?);
            }
            let seen = cluster_nodes(world, databases, node)?;
            let all = databases.nodes(Database::Redis).count();
            ensure!(seen.len() == all, "node {node} knows {} of {all} nodes", seen.len());
            for other in seen {
                ensure!(other.is_well(), "node {node} sees {}", other.line);
                say(Incident::Failover, &format!("sees {}", other.address), &other.part());
            }
            say(Incident::Failover, "role", field(&info, "role")?);
            for name in ["connected_slaves", "sync_full", "sync_partial_ok", "sync_partial_err"] {
                say(Incident::ReplicationLost, name, field(&info, name)?);
            }
            if field(&info, "role")? == "slave" {
                ensure!(field(&info, "master_link_status")? == "up", "node {node}: {info}");
            }
            let log = databases.log(Database::Redis, node);
            say(Incident::Failover, "log", &mentions(&log, &FAILOVER));
            say(Incident::ReplicationLost, "log", &mentions(&log, &REPLICATION));
        }
        Ok(Self(words))
    }

    /// What has happened from then till now.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<Change> {
        let names: BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let change = |name: &&(Incident, String)| {
            let (was, is) = (before.0.get(*name), self.0.get(*name));
            let shown = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".to_owned());
            (was != is)
                .then(|| Change { incident: name.0, what: format!("{}: {}, now {}", name.1, shown(was), shown(is)) })
        };
        names.iter().filter_map(change).collect()
    }
}

/// Something that databases say differently now.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) incident: Incident,
    what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.incident, self.what)
    }
}

/// A line of `CLUSTER NODES`.
#[derive(Debug)]
pub(crate) struct ClusterNode {
    /// All of it.
    line: String,
    /// `10.0.1.1`.
    pub(crate) address: String,
    flags: Vec<String>,
    master: String,
    epoch: String,
    link: String,
    slots: Vec<String>,
}

impl ClusterNode {
    pub(crate) fn read(line: &str) -> Result<Self> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let [_, address, flags, master, _, _, epoch, link, slots @ ..] = words.as_slice() else {
            bail!("not a line of CLUSTER NODES: `{line}`")
        };
        Ok(Self {
            line: line.to_owned(),
            address: address.split(':').next().unwrap_or_default().to_owned(),
            flags: flags.split(',').filter(|flag| *flag != "myself").map(str::to_owned).collect(),
            master: master.clone(),
            epoch: epoch.clone(),
            link: link.clone(),
            slots: slots.to_vec(),
        })
    }

    /// It is reached, no node suspects it of having failed, and it has slots or a master.
    fn is_well(&self) -> bool {
        let is_of_use = self.is_replica() || self.has_slots();
        self.link == "connected" && is_of_use && self.flags.iter().all(|flag| flag == "master" || flag == "slave")
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.flags.iter().any(|flag| flag == "slave")
    }

    /// Its part in the cluster.
    fn part(&self) -> String {
        format!("{} of {} at epoch {} with {:?}", self.flags.join(","), self.master, self.epoch, self.slots)
    }

    pub(crate) fn has_slots(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Whether a key of this slot is its.
    pub(crate) fn has_slot(&self, slot: u16) -> bool {
        let holds = |range: &String| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
        };
        self.slots.iter().any(holds)
    }
}

/// All that a node of the Redis Cluster knows.
pub(crate) fn cluster_nodes(world: &World, databases: &Databases, node: usize) -> Result<Vec<ClusterNode>> {
    let nodes = databases.ask_redis(world, node, &["CLUSTER", "NODES"])?;
    nodes.lines().filter(|line| !line.is_empty()).map(ClusterNode::read).collect()
}

/// How many lines of a log say one of these, and the last one that does.
fn mentions(log: &str, words: &[&str]) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect();
    format!("{} such lines, the last: {}", lines.len(), lines.last().unwrap_or(&"-"))
}

/// A value of `name:value` lines.
fn field<'a>(info: &'a str, name: &str) -> Result<&'a str> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.with_context(|| format!("Redis does not say `{name}`: {info}"))
}
