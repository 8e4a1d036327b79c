//! `make demo`: a mesh of three, a fourth that joins live, one that is revoked. Everything real but the TEE.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration shows things")]

use std::{
    net::Ipv4Addr,
    panic::resume_unwind,
    process::ExitCode,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::VerdictState;
use netns_tests::{Steps, World, interrupt};

/// Generous: a cold machine with two busy cores.
const JOIN: Duration = Duration::from_secs(150);
const CUT: Duration = Duration::from_secs(150);
/// How long a ping that must not be answered is waited for.
const NO_ECHO: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let once = std::env::var_os("ONCE").is_some_and(|value| value == "1");
    let signals = match listen_for_signals() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::default();
    let result = World::with_steps(3, &mut steps).and_then(|mut world| {
        let shown = show(&mut world, &mut steps);
        if shown.is_ok() {
            println!("\nhow long it took\n{}", steps.table());
            if !once {
                println!("{}", things_to_try(&world));
                // An error means that the sender is gone, which only happens at the end of this process.
                let _ = signals.recv();
            }
        }
        let closed = Steps::default().run("take everything away", || world.close());
        shown.and(closed)
    });
    match result {
        Ok(()) => {
            println!("every check held, nothing is left behind");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The story. Every sentence is a check.
fn show(world: &mut World, steps: &mut Steps) -> Result<()> {
    steps.run("mint three tokens, one for each CVM", || {
        for node in 1..=3 {
            world.mint(node)?;
        }
        Ok(())
    })?;
    steps.run("start three agents (nodes 2 and 3 pay for themselves)", || {
        world.fund(2)?;
        world.fund(3)?;
        (1..=3).try_for_each(|node| world.node_mut(node).start())
    })?;
    steps.run("relay the registration of node 1 (meshctl register)", || world.relay(1))?;
    steps.run("wait until every pair pings over 10.0.1.x", || world.wait_full_mesh(&[1, 2, 3], JOIN))?;
    steps.run("wait until node 1 has looked and says so", || {
        world.wait("every peer of node 1 to be up", JOIN, || {
            let summary = world.node(1).status()?.summary;
            ensure!(summary.up == 2, "{} of 2 are up", summary.up);
            Ok(())
        })?;
        Ok(())
    })?;
    println!("\n$ meshctl status      (on node 1)\n{}", world.node(1).meshctl(&["status"])?.success()?);

    let before = world.wait_settled(&[1], JOIN)?;
    steps.run("add a fourth node to the running mesh", || {
        world.add_node()?;
        world.join(4)?;
        world.wait_full_mesh(&[1, 2, 3, 4], JOIN)
    })?;
    let now = world.node(1).wg_show("latest-handshakes")?;
    ensure!(
        before[0].lines().all(|session| now.lines().any(|line| line == session)),
        "the sessions between the first three were touched when the fourth joined"
    );

    let (token, address) = (world.node(2).token()?, world.node(2).address()?);
    steps.run("revoke node 2: every other node drops it, it fences itself", || {
        world.operate(&["revoke", &token.to_string()])?;
        wait_cut_off(world, address)
    })?;
    steps.run("ping it from the others: none gets an answer", || {
        let world = &*world;
        thread::scope(|scope| {
            let ping =
                |node: usize| scope.spawn(move || (node, world.node(node).ping_within(address, NO_ECHO).is_err()));
            let pings = [1, 3, 4].map(ping);
            pings.into_iter().try_for_each(|ping| {
                let (node, is_lost) = ping.join().unwrap_or_else(|panic| resume_unwind(panic));
                ensure!(is_lost, "node {node} still reaches {address}");
                Ok(())
            })
        })
    })?;
    steps.run("check that the other three still reach each other", || world.wait_full_mesh(&[1, 3, 4], JOIN))?;
    let fenced = world.node(2).meshctl(&["status"])?;
    ensure!(fenced.status.code() == Some(5), "`meshctl status` of a revoked node must exit 5, not {}", fenced.status);
    println!("\n$ meshctl status      (on node 2, revoked; exit code 5)\n{}", fenced.stdout);
    println!("$ meshctl status      (on node 1)\n{}", world.node(1).meshctl(&["status"])?.success()?);
    Ok(())
}

fn wait_cut_off(world: &World, address: Ipv4Addr) -> Result<()> {
    world.wait("the revoked node to be cut off", CUT, || {
        for node in [1, 3, 4] {
            ensure!(world.node(node).peer(address).is_err(), "node {node} still lists {address}");
            let allowed = world.node(node).wg_show("allowed-ips")?;
            ensure!(!allowed.contains(&format!("{address}/32")), "{address} is still on the device of node {node}");
        }
        let own = world.node(2).status()?;
        ensure!(own.verdict.state == VerdictState::Fenced, "it says {:?} of itself", own.verdict.state);
        ensure!(!world.node(2).has_interface()?, "it still has its interface");
        Ok(())
    })?;
    Ok(())
}

fn things_to_try(world: &World) -> String {
    let meshctl = world.binaries().meshctl.display();
    let (one, three) = (world.node(1), world.node(3));
    let (here, socket) = (one.namespace.name(), one.socket());
    let (socket, dir, hub) = (socket.display(), world.dir().display(), world.hub().name());
    let there = three.address().map_or_else(|_| "10.0.1.3".to_owned(), |address| address.to_string());
    let rpc = world.chain.http_url();
    let contract = world.contract();
    format!(
        "it stays up: try, as root, in another terminal\n\n  \
         ip netns exec {here} ping {there}\n  \
         ip netns exec {here} wg show\n  \
         {meshctl} --socket {socket} status --watch\n  \
         ip netns exec {hub} {meshctl} revoke 3 --rpc-url {rpc} --contract {contract} --private-key-file {dir}/operator.key\n\n\
         Ctrl-C takes everything away again."
    )
}

/// From now on Ctrl-C and SIGTERM end every wait, and this channel hears of them.
fn listen_for_signals() -> Result<Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let (mut interrupted, mut terminated) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let (tell, heard) = mpsc::channel();
    thread::spawn(move || {
        loop {
            runtime.block_on(async {
                tokio::select! { _ = interrupted.recv() => {} _ = terminated.recv() => {} }
            });
            interrupt();
            eprintln!("\ncleaning up");
            // While a step runs the channel is not read: the step's wait ends instead.
            let _ = tell.send(());
        }
    });
    Ok(heard)
}
