//! What one change costs an agent in a mesh of thousands, and that nothing else of its mesh is touched.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Absent, World, number, wait_until};

use crate::PATIENCE;

/// Of a change, at most: how much was answered in the seconds after it.
const MOST_BYTES: u64 = 20_000;
/// After a change what it costs is counted for so long.
const COUNTED: Duration = Duration::from_secs(3);
/// How often each change is made: what one costs moves by some milliseconds.
const CHANGES: u32 = 11;
/// While nothing changes, for so long.
const IDLE: Duration = Duration::from_secs(60);
/// A first read of thousands, their proofs, and their keys on the device, built without optimization.
const START: Duration = Duration::from_secs(900);

/// Two real nodes among thousands that are registered and do not run (`MANY_NODES`).
#[test]
#[ignore = "registers thousands and counts what an agent does: alone, in `make nightly ONLY=sizes`"]
fn a_change_among_thousands_costs_what_changed() -> Result<()> {
    let count = u32::try_from(number("MANY_NODES", 5000)?)?;
    let mut world = World::in_network(2, "10.64.0.0/16")?;
    let begun = Instant::now();
    world.register_crowd(count - 2)?;
    println!("measured: {count} nodes registered in {:?}", begun.elapsed());
    let begun = Instant::now();
    for node in 1..=2 {
        world.node_mut(node).settings.rpc_urls = vec![world.chain.http_url()];
        world.node_mut(node).settings.log_level = "info".to_owned();
        world.join(node)?;
    }
    let peers = |world: &World| {
        let found = world.node(1).device_peers()?.len();
        ensure!(found + 1 == count as usize, "{found} peers on the device");
        Ok(())
    };
    wait_until("all to be on the device", START, || peers(&world))?;
    println!("measured: all on the device {:?} after the first start", begun.elapsed());

    // What a start costs, with the registry on disk and without.
    world.node_mut(1).restart()?;
    let begun = Instant::now();
    wait_until("all to be on the device again", START, || peers(&world))?;
    println!("measured: all on the device {:?} after a restart", begun.elapsed());
    let address = world.node(2).address()?;
    world.node(1).ping(address)?;
    settle(&world)?;
    println!("measured: resident {} kB", resident(&world)?);

    let idle = cost(&world, IDLE, || Ok(()))?;
    let a_day = 86_400 / IDLE.as_secs();
    println!(
        "measured: idle: {} requests and {} kB a day, {:?} of processor time in {IDLE:?}",
        idle.requests * a_day,
        idle.bytes * a_day / 1000,
        idle.cpu
    );
    let session = || world.node(1).peer(address)?.handshake_age_s.context("no session");
    let (before, begun) = (session()?, Instant::now());
    let absent = (1..=CHANGES).map(|nth| world.mint_absent(count + nth)).collect::<Result<Vec<_>>>()?;
    settle(&world)?;
    for (what, change) in [
        ("a join", &(|absent| world.register_absent(absent)) as &dyn Fn(Absent) -> Result<()>),
        ("a revocation", &|absent| world.revoke_absent(absent)),
    ] {
        let mut beyond_idle = Vec::new();
        for absent in &absent {
            // Compared with the seconds just before: what else the machine does changes from minute to minute.
            let idle = cost(&world, COUNTED, || Ok(()))?;
            let cost = cost(&world, COUNTED, || change(*absent))?;
            println!("measured: {what} among {count}, in {COUNTED:?}: {cost}");
            ensure!(cost.bytes <= MOST_BYTES, "{what} cost {} bytes", cost.bytes);
            ensure!(cost.content <= 2, "{what} cost {} requests for what the contract contains", cost.content);
            ensure!(cost.requests <= 10, "{what} cost {} requests in 3 s", cost.requests);
            beyond_idle.push(cost.cpu.saturating_sub(idle.cpu));
        }
        beyond_idle.sort_unstable();
        let [least, median, most] = [0, beyond_idle.len() / 2, beyond_idle.len() - 1].map(|nth| beyond_idle[nth]);
        println!(
            "measured: {what} among {count}: {median:?} of processor time beyond that of idling (median; {least:?} to {most:?})"
        );
    }
    peers(&world)?;
    // It is as much older, unless it has become so old that WireGuard replaces it.
    let (expected, age) = (before + begun.elapsed().as_secs_f64(), session()?);
    ensure!((age - expected).abs() < 2.0 || expected > 110.0, "the session is {age} s old, and not {expected} s");
    world.close()
}

/// What the agent of node 1 spent in some seconds.
#[derive(Debug)]
struct Cost {
    /// Requests to its endpoint.
    requests: u64,
    /// Of these, for what the contract contains.
    content: u64,
    /// What was answered.
    bytes: u64,
    /// Of its processor.
    cpu: Duration,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, content, bytes, cpu } = self;
        write!(f, "{requests} requests, {content} for content, {bytes} bytes, {cpu:?} of processor time")
    }
}

fn cost(world: &World, counted_for: Duration, change: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (before, cpu) = (counted(world)?, ProcessorTime::of(world)?);
    let begun = Instant::now();
    change()?;
    while begun.elapsed() < counted_for {
        std::thread::sleep(Duration::from_millis(50));
    }
    // To be asked costs it something, too.
    let cpu = ProcessorTime::of(world)?.since(&cpu);
    let after = counted(world)?;
    let [requests, content, bytes] = std::array::from_fn(|index| after[index] - before[index]);
    Ok(Cost { requests, content, bytes, cpu })
}

/// Requests, those for content, and bytes of answers, since the start.
fn counted(world: &World) -> Result<[u64; 3]> {
    let (_, page) = world.node(1).get("/metrics")?;
    let sum = |family: &str, which: fn(&str) -> bool| {
        let samples = page.lines().filter(|line| line.starts_with(family) && which(line));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    let content = |line: &str| line.contains("eth_getProof") || line.contains("eth_getLogs");
    let requests = sum("p2p_rpc_requests_total", |_| true);
    Ok([requests, sum("p2p_rpc_requests_total", content), sum("p2p_rpc_received_bytes_total", |_| true)])
}

/// Processor time of each thread of the agent so far, to the nanosecond. (`/proc/PID/stat` has their sum in steps of 10 ms, and to sum
/// these would lose what a thread did before it ended.)
struct ProcessorTime(BTreeMap<OsString, Duration>);

impl ProcessorTime {
    /// That of node 1: the first field of each `/proc/PID/task/TID/schedstat`.
    fn of(world: &World) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", world.node(1).pid()?))? {
            let thread = thread?;
            // A thread may have ended since.
            let Ok(stat) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let nanoseconds = stat.split(' ').next().context("an empty schedstat")?;
            threads.insert(thread.file_name(), Duration::from_nanos(nanoseconds.parse()?));
        }
        ensure!(!threads.is_empty(), "an agent without threads, or a kernel without CONFIG_SCHED_INFO");
        Ok(Self(threads))
    }

    /// What was spent since then. One that ended in between was idle for seconds before.
    fn since(&self, before: &Self) -> Duration {
        let spent =
            |(thread, now): (_, &Duration)| now.saturating_sub(before.0.get(thread).copied().unwrap_or_default());
        self.0.iter().map(spent).sum()
    }
}

fn resident(world: &World) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", world.node(1).pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is a number")
}

/// Waits until nothing is read any more but what an idle mesh reads.
fn settle(world: &World) -> Result<()> {
    wait_until("the agent to be idle", PATIENCE, || {
        let cost = cost(world, COUNTED, || Ok(()))?;
        ensure!(cost.content == 0 && cost.requests <= 4, "{cost:?}");
        Ok(())
    })
    .map(drop)
}
