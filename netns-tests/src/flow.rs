//! Application traffic that measures how long nothing got through, and connections that have to survive.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::Ipv4Addr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

use testkit::{Process, wait_until};

use crate::{binaries::Binaries, node::Node, traffic::Traffic};

/// For what takes moments on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Heartbeats are due every 10 ms: one that is this late shows that the machine was stalled.
const STALL: Duration = Duration::from_millis(50);

/// Messages every 10 ms from one node to another and back.
#[derive(Debug)]
pub struct Flow {
    process: Process,
    name: String,
    /// Messages have so many sizes in turn, each of which has to get through.
    sizes: u64,
}

impl Traffic {
    /// Datagrams from another node, short and long in turn.
    pub fn udp_flow(&self, binaries: &Binaries, from: &Node) -> Result<Flow> {
        self.flow(binaries, from, "udp-flow", 2)
    }

    /// Messages of a kilobyte over one connection.
    pub fn tcp_flow(&self, binaries: &Binaries, from: &Node) -> Result<Flow> {
        self.flow(binaries, from, "tcp-flow", 1)
    }

    fn flow(&self, binaries: &Binaries, from: &Node, verb: &str, sizes: u64) -> Result<Flow> {
        let process = self.client(binaries, from, verb, &[])?;
        let flow = Flow { process, name: format!("{verb} from node {}", from.index()), sizes };
        let since = SystemTime::now();
        wait_until("the first echoes", PATIENCE, || flow.flows_since(since))?;
        Ok(flow)
    }

    /// A transfer from another node and back of so many MiB, spread over about so many seconds.
    pub fn transfer(&self, binaries: &Binaries, from: &Node, mebibytes: u64, seconds: u64) -> Result<Transfer> {
        let numbers = [mebibytes.to_string(), seconds.to_string()];
        Ok(Transfer { process: self.client(binaries, from, "transfer", &numbers)? })
    }

    /// A connection from another node that is idle until [`Transfer::resume`]: then 1 MiB goes over it, and back.
    pub fn idle_connection(&self, binaries: &Binaries, from: &Node) -> Result<Transfer> {
        let mut idle = Transfer { process: self.client(binaries, from, "idle", &[])? };
        wait_until("the connection", PATIENCE, || {
            idle.is_alive()?;
            idle.process.log().contains("idle").then_some(()).context("not yet")
        })?;
        Ok(idle)
    }

    /// A program for every call, each with a log of its own.
    fn client(&self, binaries: &Binaries, from: &Node, verb: &str, more: &[String]) -> Result<Process> {
        let log = (0..).map(|number| from.dir().join(format!("{verb}-{}-{number}.log", self.address().ip())));
        let log = log.into_iter().find(|log| !log.exists()).context("no name is free")?;
        from.namespace
            .launch(&binaries.traffic)
            .eager()
            .args([verb, &self.address().to_string()])
            .args(more)
            .start(&log)
    }
}

impl Flow {
    /// What it sends, and from where.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest time between these moments in which no message of one of the sizes came back, without stalls of the machine.
    #[must_use]
    pub fn longest_gap(&self, heartbeat: &Heartbeat, from: SystemTime, to: SystemTime) -> Duration {
        let (echoes, stalls) = (self.echoes(), heartbeat.stalls());
        let longest = |size: u64| {
            let of_size = echoes.iter().filter(|(_, number)| number % self.sizes == size).map(|&(at, _)| at);
            longest_gap(of_size, &stalls, from, to)
        };
        (0..self.sizes).map(longest).max().unwrap_or_default()
    }

    /// Messages of every size came back since then.
    pub fn flows_since(&self, from: SystemTime) -> Result<()> {
        let sizes: BTreeSet<u64> =
            self.echoes().iter().filter(|(at, _)| *at >= from).map(|(_, number)| number % self.sizes).collect();
        ensure!(sizes.len() as u64 == self.sizes, "{}: no echo yet: {}", self.name, self.process.log_tail(1));
        Ok(())
    }

    /// Fails if it ended, as after a reset of its connection, or if a message came back twice.
    pub fn is_sound(&mut self) -> Result<()> {
        if let Some(status) = self.process.exited()? {
            bail!("{} ended with {status}: {}", self.name, self.process.log_tail(1));
        }
        let echoes = self.echoes();
        let numbers: BTreeSet<u64> = echoes.iter().map(|&(_, number)| number).collect();
        ensure!(numbers.len() == echoes.len(), "{}: {} echoes came twice", self.name, echoes.len() - numbers.len());
        Ok(())
    }

    /// When each number came back.
    fn echoes(&self) -> Vec<(SystemTime, u64)> {
        let echo = |line: &str| {
            let (millis, number) = line.strip_prefix("echo ")?.split_once(' ')?;
            Some((UNIX_EPOCH + Duration::from_millis(millis.parse().ok()?), number.parse().ok()?))
        };
        self.process.log().lines().filter_map(echo).collect()
    }
}

/// A flow from a node to itself, which no fault and no agent touches: while it stalls, so does the machine. The limits are
/// about nodes, so that such times are left out.
#[derive(Debug)]
pub struct Heartbeat {
    flow: Flow,
    _server: Traffic,
}

impl Heartbeat {
    /// Beats in this node from now on.
    pub fn start(binaries: &Binaries, node: &Node) -> Result<Self> {
        let server = Traffic::serve(binaries, node, Ipv4Addr::LOCALHOST)?;
        Ok(Self { flow: server.udp_flow(binaries, node)?, _server: server })
    }

    /// For how much of the time between these moments the machine was stalled.
    #[must_use]
    pub fn stalled(&self, from: SystemTime, to: SystemTime) -> Duration {
        within(&self.stalls(), from, to)
    }

    /// The longest time between the moments `from` and `to` without any of `moments`, and without stalls of the machine.
    #[must_use]
    pub fn longest_gap(
        &self,
        moments: impl IntoIterator<Item = SystemTime>,
        from: SystemTime,
        to: SystemTime,
    ) -> Duration {
        longest_gap(moments, &self.stalls(), from, to)
    }

    fn stalls(&self) -> Vec<Stall> {
        let beats = self.flow.echoes();
        let pairs = beats.windows(2).map(|pair| (pair[0].0, pair[1].0));
        pairs.filter(|&(from, to)| between(from, to) >= STALL).collect()
    }
}

/// From and to.
type Stall = (SystemTime, SystemTime);

fn longest_gap(
    moments: impl IntoIterator<Item = SystemTime>,
    stalls: &[Stall],
    from: SystemTime,
    to: SystemTime,
) -> Duration {
    let inside = moments.into_iter().filter(|at| (from..to).contains(at));
    let moments: Vec<SystemTime> = [from].into_iter().chain(inside).chain([to]).collect();
    let gap = |pair: &[SystemTime]| between(pair[0], pair[1]).saturating_sub(within(stalls, pair[0], pair[1]));
    moments.windows(2).map(gap).max().unwrap_or_default()
}

/// How much of that time was a stall.
fn within(stalls: &[Stall], from: SystemTime, to: SystemTime) -> Duration {
    stalls.iter().map(|&(began, ended)| between(began.max(from), ended.min(to))).sum()
}

fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

/// A connection over which bytes go and come back.
#[derive(Debug)]
pub struct Transfer {
    process: Process,
}

impl Transfer {
    /// Fails if the connection was reset or a wrong byte came.
    pub fn is_alive(&mut self) -> Result<()> {
        match self.process.exited()? {
            Some(status) if !status.success() => bail!("it ended with {status}: {}", self.process.log_tail(3)),
            _ => Ok(()),
        }
    }

    /// Sends over an idle connection.
    pub fn resume(&mut self) -> Result<()> {
        self.process.take_stdin().context("it was resumed already")?.write_all(b"\n").context("resume it")
    }

    /// Waits until everything came back.
    pub fn finish(mut self, deadline: Duration) -> Result<()> {
        let status = self.process.wait(deadline)?;
        ensure!(status.success(), "it ended with {status}: {}", self.process.log_tail(3));
        ensure!(self.process.log().contains("transferred"), "it did nothing: {}", self.process.log_tail(3));
        Ok(())
    }
}
