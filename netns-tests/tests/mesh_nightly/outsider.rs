//! Attackers on the link below the mesh that are not members: the host of a CVM, its neighbours, a node that was revoked.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::VerdictState;
use netns_tests::{Capture, ClearText, Finished, Process, Traffic, World};

use crate::PATIENCE;

/// For a connection that is to fail: it may be longer on a slow machine, and ends at once where there is an answer.
const CONNECT: &str = "5";
/// For a program that ends by itself.
const COMMAND: Duration = Duration::from_secs(60);
/// The port of the echo servers.
const ECHO: u16 = 7;
/// The port where datagrams are counted.
const COUNTED: u16 = 9999;
/// Prints what comes to an address and port.
const RECEIVE: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print('bound')
while True: print(s.recv(100).decode())";
/// Sends a word from an address, which may be spoofed, to another.
const SEND: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
s.sendto(sys.argv[4].encode(), (sys.argv[2], int(sys.argv[3])))";

/// Node 3 is on the link and is not a member. It attacks node 1 twice: the second time, as the control, node 1 is guarded by its
/// route alone, and the same attacks succeed.
#[test]
fn an_attacker_on_the_link_reaches_no_mesh_address() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let (one, two) = (world.node(1).address()?, world.node(2).address()?);
    let token = world.node(2).token()?.to_string();
    let echo = Traffic::serve(world.binaries(), world.node(1), one)?;
    let syns = Capture::start(world.node(1), "eth0", &format!("tcp and dst host {one}"))?;
    let counter = Counter::start(&world, one, two)?;
    let route = format!("route add {one}/32 via {}", world.node(1).underlay());
    world.node(3).namespace.ip(&route)?;
    world.node(3).namespace.ip(&format!("addr add {two}/32 dev lo"))?;

    for rp_filter in 0..=2 {
        set_rp_filter(&world, rp_filter)?;
        ensure!(!connects(&world, &syns, 3, one)?, "a stranger has a connection, rp_filter {rp_filter}");
        let word = format!("spoofed-{rp_filter}");
        ensure!(!delivers_spoofed(&world, &counter, &word)?, "a spoofed datagram came, rp_filter {rp_filter}");
        echo.exchange(world.binaries(), world.node(2)).context("the member is kept out")?;
    }

    // Node 2 is revoked, and its operator does anything to its machine.
    world.operate(&["revoke", &token])?;
    world.wait("node 2 to fence itself", PATIENCE, || {
        ensure!(world.node(2).status()?.verdict.state == VerdictState::Fenced, "not fenced yet");
        Ok(())
    })?;
    world.node_mut(2).kill()?;
    world.node(2).leave()?.success()?;
    world.node(2).namespace.ip(&route)?;
    ensure!(!connects(&world, &syns, 2, one)?, "a revoked node has a connection");

    // The control.
    set_rp_filter(&world, 0)?;
    world.node_mut(1).stop()?;
    world.node_mut(1).settings.extra = vec!["--guard".to_owned(), "route".to_owned()];
    world.node_mut(1).start()?;
    world.wait("node 1 to be ready, with a warning", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(status.verdict.ready && status.warnings.iter().any(|warning| warning.code == "W507"), "{status:?}");
        Ok(())
    })?;
    for node in [2, 3] {
        world.wait(&format!("node {node} to connect"), PATIENCE, || {
            ensure!(connects(&world, &syns, node, one)?, "without the table it gets nowhere: this proves nothing");
            Ok(())
        })?;
    }
    let control = "spoofed-control";
    ensure!(delivers_spoofed(&world, &counter, control)?, "no spoofed datagram comes at all: this proves nothing");
    drop((echo, counter));
    world.close()
}

/// The hub, which every node has as its default route, impersonates 10.0.1.2.
#[test]
fn nothing_for_the_mesh_leaves_in_clear_from_the_first_start_until_the_node_leaves() -> Result<()> {
    let mut world = World::new(2)?;
    let (one, two) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 1, 2));
    world.hub().ip(&format!("addr add {two}/32 dev lo"))?;
    ensure!(world.node(1).ping(two).is_ok(), "the impostor does not answer: this proves nothing");
    ensure!(world.mint(1)? == 1, "other tokens than expected");
    world.fund(1)?;

    // The first start, of a node that has heard of no contract yet.
    world.node(1).silence_rpc()?;
    world.node_mut(1).start()?;
    world.wait("the guard", PATIENCE, || world.node(1).is_guarded())?;
    let clear = ClearText::watch(&world)?;
    let sender = world.flood(1, two)?;
    let closed = |world: &World, when: &str| -> Result<()> {
        world.node(1).is_guarded().with_context(|| when.to_owned())?;
        sender.goes_on(world)?;
        bypasses(world, two).into_iter().try_for_each(|ping| {
            let answered = ping?.status.success();
            ensure!(!answered, "the impostor answered {when}");
            Ok(())
        })?;
        clear.ensure_none().with_context(|| when.to_owned())
    };
    closed(&world, "while nothing of the contract is known")?;

    world.node(1).restore_rpc()?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    clear.ensure_none()?;
    let refused = world.node(1).leave()?;
    ensure!(!refused.status.success() && refused.stderr.contains("another p2p-agent uses"), "{}", refused.stderr);
    ensure!(world.node(1).address()? == one, "another address");

    world.node_mut(1).stop()?;
    closed(&world, "after an orderly stop")?;
    world.node_mut(1).start()?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.node_mut(1).kill()?;
    closed(&world, "after kill -9")?;
    world.node_mut(1).start()?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.node_mut(1).abort()?;
    closed(&world, "after an abort")?;
    world.node_mut(1).start_upgraded()?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.operate(&["revoke", "1"])?;
    world.wait("node 1 to fence itself", PATIENCE, || {
        ensure!(world.node(1).status()?.verdict.state == VerdictState::Fenced, "not fenced yet");
        ensure!(!world.node(1).has_interface()?, "the interface is still there");
        Ok(())
    })?;
    closed(&world, "while it is fenced")?;
    world.node_mut(1).stop()?;
    closed(&world, "after a fenced node was stopped")?;

    let said = world.node(1).leave()?.success()?;
    ensure!(said.contains("blackhole route 10.0.1.0/24") && said.contains("packet filter table"), "{said}");
    ensure!(world.node(1).is_guarded().is_err(), "the guard is still there");
    let again = world.node(1).leave()?.success()?;
    ensure!(again.contains("nothing guards"), "{again}");
    world.wait("the control packets", PATIENCE, || {
        ensure!(clear.ensure_none().is_err(), "the captures see nothing: this proves nothing");
        world.node(1).ping(two)
    })?;
    drop(sender);
    world.close()
}

/// Pings by every means to bypass the blackhole route that a program or an administrator has.
fn bypasses(world: &World, to: Ipv4Addr) -> [Result<Finished>; 2] {
    [&["-I", "eth0"][..], &[]].map(|options| {
        let ping = world.node(1).namespace.launch("ping").args(["-n", "-c", "1", "-W", "1"]);
        ping.args(options).arg(to.to_string()).finish(COMMAND)
    })
}

fn set_rp_filter(world: &World, value: u8) -> Result<()> {
    ["all", "eth0"].iter().try_for_each(|which| {
        world.node(1).namespace.run("sysctl", &format!("-w net.ipv4.conf.{which}.rp_filter={value}")).map(drop)
    })
}

/// Whether a connection to node 1's echo server succeeds. Its first packet does arrive.
fn connects(world: &World, arrivals: &Capture, from: usize, to: Ipv4Addr) -> Result<bool> {
    let since = SystemTime::now();
    let dial = format!("exec 3<>/dev/tcp/{to}/{ECHO}");
    let dialled = world.node(from).namespace.launch("timeout").args([CONNECT, "bash", "-c", &dial]).finish(COMMAND)?;
    world.wait("the first packet to arrive", PATIENCE, || {
        (!arrivals.packets_since(since).is_empty()).then_some(()).context("nothing arrives: this proves nothing")
    })?;
    Ok(dialled.status.success())
}

/// A program on node 1 that prints which datagrams it receives at a mesh address, and a capture of those that reach the machine
/// with a member's address as their source.
struct Counter {
    program: Process,
    arrivals: Capture,
    at: Ipv4Addr,
    member: Ipv4Addr,
}

impl Counter {
    fn start(world: &World, at: Ipv4Addr, member: Ipv4Addr) -> Result<Self> {
        let arrivals = Capture::start(world.node(1), "eth0", &format!("udp and src host {member} and port {COUNTED}"))?;
        let arguments = ["-u", "-c", RECEIVE, &at.to_string(), &COUNTED.to_string()];
        let python = world.node(1).namespace.launch("python3").args(arguments);
        let program = python.start(&world.node(1).dir().join("received.log"))?;
        world.wait("the program to be bound", PATIENCE, || {
            program.log().contains("bound").then_some(()).context("not yet")
        })?;
        Ok(Self { program, arrivals, at, member })
    }

    fn has(&self, word: &str) -> bool {
        self.program.log().lines().any(|line| line == word)
    }
}

/// Whether a datagram with a member's address as its source reaches an application on node 1. It does arrive at the machine, and the
/// application has received a later datagram by the time this one is looked for.
fn delivers_spoofed(world: &World, counter: &Counter, word: &str) -> Result<bool> {
    let since = SystemTime::now();
    send(world, 3, counter.member, counter.at, word)?;
    world.wait("the spoofed datagram to arrive", PATIENCE, || {
        let arrived = !counter.arrivals.packets_since(since).is_empty();
        arrived.then_some(()).context("nothing arrives: this proves nothing")
    })?;
    let later = format!("after-{word}");
    send(world, 1, counter.at, counter.at, &later)?;
    world.wait("a datagram that was sent later", PATIENCE, || counter.has(&later).then_some(()).context("not yet"))?;
    Ok(counter.has(word))
}

fn send(world: &World, node: usize, from: Ipv4Addr, to: Ipv4Addr, word: &str) -> Result<()> {
    let (from, to, port) = (from.to_string(), to.to_string(), COUNTED.to_string());
    let python = world.node(node).namespace.launch("python3").args(["-c", SEND, &from, &to, &port, word]);
    python.finish(COMMAND)?.success().map(drop)
}
