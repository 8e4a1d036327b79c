//! A running `dstack-simulator gateway`, as tests control it: on a machine of its own, which can fail as well.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use dstack_simulator::gateway::Counts;

use testkit::{Namespace, Process, Signal, wait_until};

/// The base domain that it serves.
pub(crate) const DOMAIN: &str = "gw.example";
/// Where it is on the hub's bridge.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Of the port that it listens on.
const PORT: u16 = 443;
/// For what takes moments on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway in a namespace of its own, or the place where one was.
#[derive(Debug)]
pub struct Gateway {
    // In the order in which they have to go.
    process: Option<Process>,
    namespace: Namespace,
    program: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    starts: usize,
}

impl Gateway {
    /// A namespace on the hub's bridge, in which nothing runs yet. `limits` are arguments of the gateway; instances are read from
    /// `instances`.
    pub(crate) fn create(
        program: &Path,
        name: String,
        hub: &Namespace,
        dir: &Path,
        instances: &Path,
        limits: &[&str],
    ) -> Result<Self> {
        let namespace = Namespace::create(name)?;
        hub.ip(&format!("link add gateway type veth peer name eth0 netns {}", namespace.name()))?;
        hub.ip("link set gateway master br0 up")?;
        namespace.ip(&format!("addr add {ADDRESS}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        let mut arguments: Vec<String> =
            ["gateway", "--domain", DOMAIN, "--listen"].iter().map(ToString::to_string).collect();
        arguments.extend([address().to_string(), "--instances".to_owned(), instances.display().to_string()]);
        arguments.extend(limits.iter().map(ToString::to_string));
        Ok(Self { process: None, namespace, program: program.to_owned(), arguments, dir: dir.to_owned(), starts: 0 })
    }

    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts it, and returns when it was ready.
    pub fn start(&mut self) -> Result<SystemTime> {
        ensure!(self.process.is_none(), "the gateway is already running");
        self.starts += 1;
        let log = self.dir.join(format!("gateway-{}.log", self.starts));
        let mut process = self.namespace.launch(&self.program).eager().args(&self.arguments).start(&log)?;
        wait_until("the gateway's first line", PATIENCE, || {
            if let Some(status) = process.exited()? {
                bail!("it ended with {status}: {}", process.log_tail(5));
            }
            process.log().lines().any(|line| line.starts_with('{')).then_some(()).context("nothing yet")
        })?;
        self.process = Some(process);
        Ok(SystemTime::now())
    }

    /// Kills it: the kernel closes its connections.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("no gateway is running")?;
        process.signal(Signal::Kill)?;
        process.wait(PATIENCE).map(drop)
    }

    /// Its machine dies: connections are not closed, and nothing answers.
    pub fn crash(&mut self) -> Result<()> {
        self.namespace.ip("link set eth0 down")?;
        self.kill()
    }

    /// After [`Gateway::crash`]: the machine is back, with a gateway that knows no connection. Returns since when.
    pub fn reboot(&mut self) -> Result<SystemTime> {
        self.start()?;
        self.namespace.ip("link set eth0 up")?;
        Ok(SystemTime::now())
    }

    /// Its counters since its last start.
    pub fn counts(&mut self) -> Result<Counts> {
        let process = self.process.as_mut().context("no gateway is running")?;
        let lines = |process: &Process| process.log().lines().filter(|line| line.starts_with('{')).count();
        let before = lines(process);
        process.signal(Signal::User)?;
        let (counts, _) = wait_until("the gateway's counts", PATIENCE, || {
            ensure!(lines(process) > before, "nothing yet");
            let log = process.log();
            let last = log.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
            serde_json::from_str(last).with_context(|| format!("read `{last}`"))
        })?;
        Ok(counts)
    }
}

/// Where agents reach it.
pub(crate) const fn address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ADDRESS), PORT)
}
