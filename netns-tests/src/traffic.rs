//! Traffic of applications inside the nodes, made by the `traffic` program.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

use testkit::{Finished, Process, stall_clock, wait_until};

use crate::{binaries::Binaries, node::Node, world::World};

/// For what comes at once on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// TCP and UDP echo servers on one address of a node.
#[derive(Debug)]
pub struct Traffic {
    _servers: Process,
    address: SocketAddrV4,
}

impl Traffic {
    /// Starts both servers on `address`, and returns when they are bound.
    pub fn serve(binaries: &Binaries, node: &Node, address: Ipv4Addr) -> Result<Self> {
        let address = SocketAddrV4::new(address, 7);
        let launch = node.namespace.launch(&binaries.traffic).eager().args(["serve", &address.to_string()]);
        let mut servers = launch.start(&node.dir().join(format!("serve-{}.log", address.ip())))?;
        wait_until("the echo servers to be bound", PATIENCE, || {
            if let Some(status) = servers.exited()? {
                bail!("they ended with {status}: {}", servers.log_tail(5));
            }
            servers.log().contains("serving").then_some(()).context("not yet")
        })?;
        Ok(Self { _servers: servers, address })
    }

    /// Where they answer.
    pub(crate) const fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// A TCP exchange and 20 UDP datagrams from another node, each echoed whole.
    pub fn exchange(&self, binaries: &Binaries, from: &Node) -> Result<()> {
        for verb in ["tcp-once", "udp-once"] {
            let launch = from.namespace.launch(&binaries.traffic).args([verb, &self.address.to_string()]);
            launch.finish(PATIENCE).and_then(Finished::success)?;
        }
        Ok(())
    }

    /// A TCP connection from another node that says something every 20 ms until it is dropped.
    pub fn tcp_stream(&self, binaries: &Binaries, from: &Node) -> Result<Stream> {
        self.stream(binaries, from, "tcp-stream")
    }

    /// The same with UDP: datagrams may be lost, the stream does not end.
    pub fn udp_stream(&self, binaries: &Binaries, from: &Node) -> Result<Stream> {
        self.stream(binaries, from, "udp-stream")
    }

    fn stream(&self, binaries: &Binaries, from: &Node, verb: &str) -> Result<Stream> {
        let log = from.dir().join(format!("{verb}-{}.log", self.address.ip()));
        // The log is appended to: a second stream over the same pair starts after what the first one wrote.
        let skip = testkit::process::read_lossy(&log).lines().count();
        let launch = from.namespace.launch(&binaries.traffic).eager().args([verb, &self.address.to_string()]);
        let stream = Stream { process: launch.start(&log)?, skip };
        wait_until("the first echoes", PATIENCE, || {
            (stream.echoes().len() > 5).then_some(()).with_context(|| stream.process.log_tail(5))
        })?;
        Ok(stream)
    }
}

/// Datagrams to one place, sent without a pause whatever the system says.
#[derive(Debug)]
pub struct Flood(Process);

impl Flood {
    /// From a node to a port on which no program listens.
    pub fn start(binaries: &Binaries, from: &Node, to: Ipv4Addr) -> Result<Self> {
        let log = from.dir().join(format!("flood-{to}.log"));
        from.namespace.launch(&binaries.traffic).args(["udp-flood", &format!("{to}:9")]).start(&log).map(Self)
    }

    /// Waits until it has tried 500 more times: sent or refused.
    pub fn goes_on(&self, world: &World) -> Result<()> {
        let tried = || -> Option<u64> {
            let log = self.0.log();
            let mut words = log.lines().last()?.split_whitespace().skip(2);
            Some(words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?)
        };
        let before = tried().unwrap_or(0);
        world.wait("the sender to go on", PATIENCE, || {
            let more = tried().unwrap_or(0).saturating_sub(before);
            ensure!(more > 500, "only {more} more");
            Ok(())
        })?;
        Ok(())
    }
}

impl World {
    /// A sender that never pauses, from a node to any address.
    pub fn flood(&self, from: usize, to: Ipv4Addr) -> Result<Flood> {
        Flood::start(self.binaries(), self.node(from), to)
    }
}

/// A stream of numbered messages and their echoes.
#[derive(Debug)]
pub struct Stream {
    process: Process,
    skip: usize,
}

impl Stream {
    /// When each echo arrived.
    #[must_use]
    pub fn echoes(&self) -> Vec<SystemTime> {
        let log = self.process.log();
        let stamp = |line: &str| line.strip_prefix("echo ")?.split_whitespace().next()?.parse().ok();
        let times = log.lines().skip(self.skip).filter_map(stamp);
        times.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)).collect()
    }

    /// The longest time without an echo, since `from` and until now, while the machine ran.
    #[must_use]
    pub fn longest_gap(&self, from: SystemTime) -> Duration {
        // Before the log is read, which takes a moment.
        let now = SystemTime::now();
        let echoes = self.echoes().into_iter().filter(|echo| (from..now).contains(echo));
        let moments: Vec<SystemTime> = [from].into_iter().chain(echoes).chain([now]).collect();
        moments.windows(2).map(|pair| stall_clock::between(pair[0], pair[1])).max().unwrap_or_default()
    }

    /// Why it ended, if it ended.
    pub fn ended(&mut self) -> Result<Option<String>> {
        Ok(self.process.exited()?.map(|status| format!("{status}: {}", self.process.log_tail(1))))
    }
}
