//! Databases that are left in peace, and what to think of it when they are not.

use std::{
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use netns_tests::{Heartbeat, Node, World};

use crate::{
    NODES, PATIENCE,
    databases::{self, Database, Databases},
    faults::{cut_off, reconnect},
    mesh,
    plan::{Chapter, Fault, Kind, LONGEST},
    watch::{Change, Incident, Words, cluster_nodes},
    writes::Writes,
};

/// The machine, in sum between two looks at the databases.
const STALL: Duration = Duration::from_secs(1);
/// Faults that are repeated, in a run.
const REPEATS: usize = 10;
/// Databases that were started, or left each other, say the same for so long before anything happens to them.
const SETTLED: Duration = Duration::from_secs(10);
/// Longer than any database waits.
const TOO_LONG: Duration = Duration::from_secs(15);

/// A mesh and its databases, which say the same all the time.
pub(crate) struct Peace {
    // In the order in which they have to go.
    heartbeat: Heartbeat,
    writes: Writes,
    databases: Databases,
    world: World,
    seed: u64,
    /// What the databases said last, and when.
    words: Words,
    looked: SystemTime,
    /// That were survived.
    pub(crate) faults: usize,
    pub(crate) repeats: usize,
    /// Gaps of the clients of Redis and of etcd.
    pub(crate) longest: [Duration; 2],
}

impl Peace {
    pub(crate) fn begin(seed: u64) -> Result<Self> {
        let world = mesh()?;
        let databases = Databases::start(&world)?;
        let words = settled(&world, &databases)?;
        databases.ensure_patience(&world)?;
        let writes = Writes::start(&world, &databases)?;
        writes.wait(&world)?;
        let heartbeat = Heartbeat::start(world.binaries(), world.node(1))?;
        let looked = SystemTime::now();
        let longest = [Duration::ZERO; 2];
        Ok(Self { heartbeat, writes, databases, world, seed, words, looked, faults: 0, repeats: 0, longest })
    }

    pub(crate) fn live_through(&mut self, chapter: &Chapter) -> Result<()> {
        let Some(outage) = &chapter.outage else {
            return chapter.faults.iter().try_for_each(|fault| self.survive(fault));
        };
        let mut faults = chapter.faults.as_slice();
        loop {
            println!("seed {}: {outage}, from now on", self.seed);
            let ongoing = outage.clone().begin(&self.world)?;
            faults.iter().try_for_each(|fault| self.survive(fault))?;
            let lasted = ongoing.end(&self.world)?;
            if self.look(&format!("{outage} for {lasted:.0?}"), Duration::ZERO)?.is_some() {
                return Ok(());
            }
            // What befell the mesh meanwhile was survived.
            faults = &[];
        }
    }

    /// The fault happens, again if the machine stalled, until no database noticed it.
    fn survive(&mut self, fault: &Fault) -> Result<()> {
        loop {
            let lasted = fault.happen(&mut self.world).with_context(|| fault.to_string())?;
            let too_long = if fault.breaks_paths() { lasted.saturating_sub(LONGEST) } else { Duration::ZERO };
            sleep(fault.pause);
            if let Some(gap) = self.look(&fault.to_string(), too_long)? {
                // Each node has a client of etcd, or what that one writes to. It may print an answer late that it got in time.
                let is_felt = !matches!(fault.kind, Kind::CutOff { .. }) || gap >= fault.lasts / 2;
                ensure!(is_felt, "{fault}: all clients went on, with gaps of {gap:?} at most: this proves nothing");
                return Ok(());
            }
        }
    }

    /// Waits until everything is whole again. Where nothing has happened to the databases since the last look, returns the longest time in
    /// which a client of etcd wrote nothing, the machine's stalls included. Otherwise, where the machine is to blame, a new time begins
    /// for them, and where it is not, an error says what has happened.
    fn look(&mut self, what: &str, too_long: Duration) -> Result<Option<Duration>> {
        let (from, healed) = (self.looked, SystemTime::now());
        let (writes, world, databases) = (&mut self.writes, &self.world, &self.databases);
        let looked = world.wait("clients to write, and databases to be whole", PATIENCE, || {
            if writes.ended()?.is_empty() {
                writes.all_wrote_since(healed)?;
            }
            Words::of(world, databases)
        });
        let (words, _) = looked.map_err(|error| self.explained(what, error))?;
        let now = SystemTime::now();
        let mut changes: Vec<String> = words.changes_since(&self.words).iter().map(Change::to_string).collect();
        changes.extend(self.writes.ended()?);
        let stalled = self.heartbeat.stalled(from, now);
        (self.words, self.looked) = (words, now);
        if changes.is_empty() {
            self.faults += 1;
            let gaps =
                [Database::Redis, Database::Etcd].map(|kind| self.writes.longest_gap(kind, &self.heartbeat, from, now));
            for (longest, gap) in self.longest.iter_mut().zip(gaps) {
                *longest = gap.max(*longest);
            }
            println!(
                "measured: quiet, seed {}, {what}: longest gap of a Redis client {:.2?}, of an etcd client {:.2?} (without {stalled:.0?} in \
                 which the machine stalled)",
                self.seed, gaps[0], gaps[1]
            );
            return Ok(Some(gaps[1] + stalled));
        }
        let changes = changes.join("\n");
        if stalled + too_long < STALL {
            return Err(self.explained(what, anyhow!("this disturbed the databases:\n{changes}")));
        }
        println!(
            "seed {}, {what}: the machine stalled for {stalled:.1?}, and the fault was {too_long:.1?} too long: once more, after\n\
             {changes}",
            self.seed
        );
        self.repeats += 1;
        ensure!(self.repeats <= REPEATS, "the machine stalls too often to say anything");
        self.words = settled(&self.world, &self.databases)?;
        self.writes = Writes::start(&self.world, &self.databases)?;
        self.writes.wait(&self.world)?;
        self.looked = SystemTime::now();
        Ok(None)
    }

    /// With what agents and databases say, because their logs go with the world.
    fn explained(&self, what: &str, error: Error) -> Error {
        let agents: String = self.world.nodes().iter().take(NODES).map(Node::diagnostics).collect();
        let context = format!("seed {}, fault {}, {what}", self.seed, self.faults + 1);
        error.context(self.databases.logs()).context(agents).context(context)
    }

    /// The control: cut off for longer than databases wait, leaders are replaced, and what watched the databases says so.
    pub(crate) fn incidents_would_have_been_seen(mut self) -> Result<()> {
        let (before, databases) = (self.words.clone(), &self.databases);
        let (leader, id) = databases.etcd_leader(&self.world)?;
        lose(&mut self.world, leader, |world| {
            let mut others = databases.nodes(Database::Etcd).filter(|&node| node != leader);
            others.try_for_each(|node| {
                let status = databases.etcd_status(world, node)?;
                let next = databases::leader(&status).filter(|next| *next != id);
                next.map(drop).with_context(|| format!("node {node} follows no other leader: {status}"))
            })
        })?;
        // A replica whose own master was lost just now would not take over.
        settled(&self.world, databases)?;
        let master = databases.redis_master(&self.world)?;
        let (observer, lost) = (master % NODES + 1, databases.address(Database::Redis, master).ip().to_string());
        lose(&mut self.world, master, |world| {
            let seen = cluster_nodes(world, databases, observer)?;
            let is_master = seen.iter().any(|node| node.address == lost && node.has_slots());
            ensure!(!is_master, "no node took its slots: {seen:?}");
            Ok(())
        })?;
        let changes = settled(&self.world, databases)?.changes_since(&before);
        for incident in [Incident::Election, Incident::Failover, Incident::ReplicationLost] {
            let seen = changes.iter().find(|change| change.incident == incident);
            let seen = seen.with_context(|| format!("leaders were lost, and the watch saw no {incident:?}"))?;
            println!("the control is seen: {seen}");
        }
        let Self { heartbeat, writes, databases, world, .. } = self;
        drop((heartbeat, writes));
        databases.stop()?;
        world.close()
    }
}

/// Takes a node away until it is replaced.
fn lose(world: &mut World, node: usize, is_replaced: impl Fn(&World) -> Result<()>) -> Result<()> {
    cut_off(world, node)?;
    let since = Instant::now();
    world.wait(&format!("databases to do without node {node}"), PATIENCE, || {
        ensure!(since.elapsed() >= TOO_LONG, "not yet");
        is_replaced(world)
    })?;
    reconnect(world, node)
}

/// What the databases say, once it stays so.
fn settled(world: &World, databases: &Databases) -> Result<Words> {
    let mut last: Option<(Words, Instant)> = None;
    let settled = world.wait("databases to settle", PATIENCE, || {
        let words = Words::of(world, databases)?;
        let (first, since) = last.get_or_insert_with(|| (words.clone(), Instant::now()));
        let changes = words.changes_since(first);
        if let Some(change) = changes.first() {
            let text = change.to_string();
            (*first, *since) = (words, Instant::now());
            bail!("{text}");
        }
        sleep(Duration::from_millis(500));
        ensure!(since.elapsed() >= SETTLED, "they have been saying the same for {:.0?}", since.elapsed());
        Ok(words)
    });
    settled.map(|(words, _)| words).map_err(|error| error.context(databases.logs()))
}
