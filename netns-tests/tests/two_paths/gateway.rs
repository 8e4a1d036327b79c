//! `gw`: no UDP comes in anywhere, so that all there is are streams through the gateway.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::status::{PathKind, Reason};
use netns_tests::{ClearText, Flow, Heartbeat, Traffic, Transfer, World, stall_clock};

use crate::{PATIENCE, is_on, let_pass, moment, path};

/// The gateway ends every stream at this age, agents replace theirs before.
const LIFETIME: &str = "20s";
const REDIAL_AFTER: &str = "12s";
/// So long nothing may get through when a stream is replaced as planned ...
const PLANNED: Duration = Duration::from_millis(200);
/// ... and so long after a gateway that died is back. But TCP waits twice as long each time that it sends again: where all that it
/// sent is lost, it comes as much later as it has waited already, and its first wait.
const UNPLANNED: Duration = Duration::from_millis(1500);
/// A connection's first wait: 200 ms and a round trip, and more where that varies.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long a gateway is away.
const AWAY: Duration = Duration::from_secs(3);
/// The others say so within this, whether anything was sent or not.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const MEBIBYTES: u64 = 64;
/// The transfer is spread over this, in which streams are replaced three times at least.
const SECONDS: u64 = 40;
const NODES: usize = 3;

#[test]
fn gateway_streams_are_replaced_before_they_end_and_no_application_notices() -> Result<()> {
    let mut world = mesh_behind_a_gateway()?;
    let clear = ClearText::watch(&world)?;
    let mut load = Load::start(&world)?;
    let began = SystemTime::now();
    let before = world.gateway_mut()?.counts()?;
    load.transfer.take().context("the transfer was started")?.finish(PATIENCE + Duration::from_secs(SECONDS))?;
    let ended = SystemTime::now();
    let after = world.gateway_mut()?.counts()?;
    println!("measured: gateway, planned redial: {}", load.gaps(began, ended));
    let streams = after.accepted - before.accepted;
    ensure!(streams >= 3 * 3, "{streams} streams were replaced in {SECONDS} s: {after:?}");
    ensure!(after.lifetime == 0, "the gateway ended streams before they were replaced: {after:?}");
    ensure_gap(load.flows(), &load.heartbeat, PLANNED, began, ended)?;
    load.finish()?;
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

#[test]
fn gateway_that_dies_unannounced_is_used_again_as_soon_as_it_is_back() -> Result<()> {
    let mut world = mesh_behind_a_gateway()?;
    let clear = ClearText::watch(&world)?;
    let mut load = Load::start(&world)?;
    for is_crash in [false, true] {
        let gateway = world.gateway_mut()?;
        let died = SystemTime::now();
        if is_crash { gateway.crash() } else { gateway.kill() }?;
        let_pass(&world, AWAY)?;
        let gateway = world.gateway_mut()?;
        let back = if is_crash { gateway.reboot() } else { gateway.start() }?;
        for flow in load.flows() {
            world.wait("packets to flow again", PATIENCE, || flow.flows_since(back))?;
        }
        // Whether it stays so.
        let_pass(&world, Duration::from_secs(3))?;
        let ended = SystemTime::now();
        let how = if is_crash { "machine" } else { "process" };
        println!("measured: gateway, {how} dead for {AWAY:?}, after it is back: {}", load.gaps(back, ended));
        ensure_gap(&load.datagrams, &load.heartbeat, UNPLANNED, back, ended)?;
        // What a connection sent while it was known that there is no path has waited. What it sent to a machine that was dead is lost: it
        // waits until packets come through again, at the latest `UNPLANNED` after the gateway was back, and as long once more.
        let waited = if is_crash { back.duration_since(died)? + UNPLANNED } else { Duration::ZERO };
        ensure_gap(&load.connections, &load.heartbeat, UNPLANNED + waited + FIRST_WAIT, back, ended)?;
    }
    load.transfer.take().context("the transfer was started")?.finish(PATIENCE + Duration::from_secs(SECONDS))?;
    load.finish()?;
    clear.ensure_none_and_prove_it(&mut world)?;
    world.close()
}

/// A machine that vanishes ends no connection, and where nothing is sent nothing is missed: agents have to ask.
#[test]
fn gateway_that_vanishes_from_an_idle_mesh_is_said_to_be_away_by_all_within_ten_seconds() -> Result<()> {
    let mut world = mesh_behind_a_gateway()?;
    // Nothing has been said for a while, and no path is new.
    let_pass(&world, IDLE)?;
    world.gateway_mut()?.crash()?;
    let vanished = Instant::now();
    let (took, _) = world.wait("every node to say that the gateway is away", PATIENCE, || {
        (1..=NODES).try_for_each(|node| says_that_it_is_away(&world, node)).map(|()| stall_clock::since(vanished))
    })?;
    println!(
        "measured: idle mesh, gateway's machine gone: said by all in reason, advice, metric and `why` after {took:.1?}"
    );
    ensure!(took <= KNOWN_WITHIN, "known after {took:?}");
    world.gateway_mut()?.reboot()?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    world.close()
}

/// Everything by which a node shows its gateway says the same.
fn says_that_it_is_away(world: &World, index: usize) -> Result<()> {
    let node = world.node(index);
    let status = node.status()?;
    ensure!(status.peers.len() == NODES - 1 && status.verdict.exit_code != 0, "{:?}", status.verdict);
    for peer in &status.peers {
        let reason = path(peer, PathKind::Gateway)?.reason;
        ensure!(reason == Some(Reason::GatewayUnreachable), "node {index} says of {}: {reason:?}", peer.name);
        let why = node.meshctl(&["why", &peer.name])?;
        ensure!(why.stdout.contains(Reason::GatewayUnreachable.code()), "{}", why.stdout);
    }
    let of_paths: Vec<_> = status.warnings.iter().filter(|warning| warning.code.starts_with("W2")).collect();
    let [warning] = of_paths[..] else { bail!("node {index} warns of {of_paths:?}") };
    let is_of_all = status.peers.iter().all(|peer| warning.message.contains(&peer.name));
    ensure!(warning.code == "W204" && is_of_all, "node {index} warns of {warning:?}");
    let (_, metrics) = node.get("/metrics")?;
    let reason = format!("path=\"gateway\",reason=\"{}\"}} 1", Reason::GatewayUnreachable.code());
    let count =
        metrics.lines().filter(|line| line.starts_with("p2p_path_unusable_reason{") && line.ends_with(&reason)).count();
    ensure!(count == NODES - 1, "{count} paths have the reason in the metrics of node {index}");
    ensure!(metrics.contains("p2p_warnings{code=\"W204\""), "node {index} has no metric of its warning");
    Ok(())
}

/// Three nodes, of which two register an endpoint where nothing gets in, and one none.
fn mesh_behind_a_gateway() -> Result<World> {
    let mut world = World::new(NODES)?;
    "none".clone_into(&mut world.node_mut(NODES).settings.endpoint);
    world.add_gateway(&["--lifetime", LIFETIME])?;
    for node in 1..=NODES {
        world.refuse_udp(node)?;
        world.node_mut(node).settings.extra.extend(["--gateway-redial-after", REDIAL_AFTER].map(str::to_owned));
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let joined = moment(&world)?;
    world.wait("every node to say that it uses the gateway", PATIENCE, || {
        for node in 1..=NODES {
            for peer in (1..=NODES).filter(|&peer| peer != node) {
                is_on(&world, node, world.node(peer).address()?, PathKind::Gateway, &joined)?;
            }
        }
        Ok(())
    })?;
    Ok(world)
}

/// What applications do meanwhile.
struct Load {
    _servers: Vec<Traffic>,
    /// One for each pair of nodes.
    datagrams: Vec<Flow>,
    connections: Vec<Flow>,
    transfer: Option<Transfer>,
    idle: Transfer,
    heartbeat: Heartbeat,
}

impl Load {
    fn start(world: &World) -> Result<Self> {
        let serve = |node: usize| Traffic::serve(world.binaries(), world.node(node), world.node(node).address()?);
        let servers = (1..=NODES).map(serve).collect::<Result<Vec<Traffic>>>()?;
        let (binaries, node) = (world.binaries(), |index: usize| world.node(index));
        let pairs = [(1, 2), (2, 3), (3, 1)];
        let udp = |&(from, to): &(usize, usize)| servers[to - 1].udp_flow(binaries, node(from));
        let tcp = |&(from, to): &(usize, usize)| servers[to - 1].tcp_flow(binaries, node(from));
        Ok(Self {
            idle: servers[1].idle_connection(binaries, node(1))?,
            datagrams: pairs.iter().map(udp).collect::<Result<_>>()?,
            connections: pairs.iter().map(tcp).collect::<Result<_>>()?,
            transfer: Some(servers[0].transfer(binaries, node(3), MEBIBYTES, SECONDS)?),
            heartbeat: Heartbeat::start(binaries, node(1))?,
            _servers: servers,
        })
    }

    fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.datagrams.iter().chain(&self.connections)
    }

    fn gaps(&self, from: SystemTime, to: SystemTime) -> String {
        let gap = |flow: &Flow| format!("{} {:.0?}", flow.name(), flow.longest_gap(&self.heartbeat, from, to));
        let gaps = self.flows().map(gap).collect::<Vec<_>>().join(", ");
        format!("{gaps} (without {:.0?} for which the machine was stalled)", self.heartbeat.stalled(from, to))
    }

    /// The idle connection still carries 1 MiB each way, and no other was reset.
    fn finish(mut self) -> Result<()> {
        self.idle.resume()?;
        self.idle.finish(PATIENCE).context("the connection that was idle")?;
        self.datagrams.iter_mut().chain(&mut self.connections).try_for_each(Flow::is_sound)
    }
}

fn ensure_gap<'a>(
    flows: impl IntoIterator<Item = &'a Flow>,
    heartbeat: &Heartbeat,
    limit: Duration,
    from: SystemTime,
    to: SystemTime,
) -> Result<()> {
    for flow in flows {
        let gap = flow.longest_gap(heartbeat, from, to);
        ensure!(gap <= limit, "{}: nothing for {gap:?}, the limit is {limit:?}", flow.name());
    }
    Ok(())
}
