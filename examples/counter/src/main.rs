//! A counter that the nodes of a mesh keep together. Runs beside `p2p-agent`, which gives it the mesh address, the peers, the
//! contract's leader, and a vote.

mod agent;
mod clock;
mod courier;
mod driver;
mod http;
mod journal;
mod neighbours;
mod watch;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use counter_core::{DiskId, NodeId, Replica, Timing, Token};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::sleep,
};

use agent::AgentClient;
use clock::Clock;
use driver::Driver;
use journal::Journal;
use neighbours::Neighbours;

/// How often to try to listen on an address that is not there yet.
const INTERFACE_EVERY: Duration = Duration::from_millis(200);

/// Keeps a counter together with the other nodes of the mesh.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Socket of the local p2p-agent
    #[arg(long, env = "P2P_SOCKET", default_value = "/run/p2p-agent/mesh0.sock", value_name = "PATH")]
    agent_socket: PathBuf,
    /// Where promises and log are kept; a node that loses it is a new member
    #[arg(long, env = "COUNTER_DATA_DIR", default_value = "/var/lib/counter", value_name = "PATH")]
    data_dir: PathBuf,
    /// Tokens of the first members, the same on each of them at the first start; none on nodes that come later
    #[arg(long, env = "COUNTER_FOUNDERS", value_delimiter = ',', value_name = "TOKENS")]
    founders: Vec<u16>,
    /// TCP port on the mesh address, the same on all nodes
    #[arg(long, env = "COUNTER_PORT", default_value_t = 8080, value_name = "PORT")]
    port: u16,
    /// Also answer clients (not nodes) here, for example 127.0.0.1:8080
    #[arg(long, env = "COUNTER_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // Where stderr is closed, the subscriber would report that to stderr, and panic because it cannot.
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    log.with_env_filter(filter).with_target(false).init();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let work = serve(cli);
    tokio::select! {
        outcome = work => outcome,
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for SIGINT"),
    }
}

async fn serve(cli: Cli) -> anyhow::Result<()> {
    let (journal, found) = Journal::open(&cli.data_dir, draw_disk_id)?;
    if found.torn > 0 {
        tracing::warn!(bytes = found.torn, "cut off a record that a crash had left unfinished");
    }
    let agent = AgentClient::new(cli.agent_socket);
    let (token, address) = agent.wait_for_own_address().await;
    let me = NodeId { token, disk: found.disk };
    tracing::info!(%token, %address, disk = %found.disk, entries = found.restored.entries.len(), "this node");

    let clock = Clock::start();
    let founders: BTreeSet<Token> = cli.founders.into_iter().map(Token).collect();
    let replica = Replica::new(me, founders, found.restored, Timing::default(), clock.now());
    let (driver, handle, outbox) = Driver::new(replica, journal, clock);
    let neighbours = Neighbours::new(token, cli.port);

    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mesh = listen_on_mesh(address, cli.port).await?;
    let (seats, seen) = tokio::sync::watch::channel(None);
    let app = http::App::new(handle.clone(), agent.clone(), neighbours.clone(), seen, address)?;
    tasks.spawn(http::serve(mesh, http::mesh_router(app.clone())));
    if let Some(listen) = cli.listen {
        let local = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        tasks.spawn(http::serve(local, http::client_router(app)));
    }
    tasks.spawn(courier::run(outbox.questions, handle.clone(), neighbours.clone(), address));
    tasks.spawn(watch::peers(agent.clone(), handle.clone(), neighbours, (token, address)));
    tasks.spawn(watch::seat(agent.clone(), handle, seats));
    tasks.spawn(watch::vote(agent, outbox.votes));
    // Writing to the disk blocks: the driver has a thread of its own, whose end ends the program.
    tasks.spawn_blocking(move || driver.run());
    let ended = tasks.join_next().await.context("nothing runs")?;
    ended.context("a task failed")??;
    anyhow::bail!("a task ended")
}

/// The agent is a member before its interface has the address, and in a restart after it has lost it.
async fn listen_on_mesh(address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    let mut is_told = false;
    loop {
        match TcpListener::bind((address, port)).await {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                if !is_told {
                    is_told = true;
                    tracing::info!("waiting: the mesh's interface is not there yet");
                }
                sleep(INTERFACE_EVERY).await;
            }
            outcome => return outcome.with_context(|| format!("cannot listen on {address}:{port}")),
        }
    }
}

fn draw_disk_id() -> std::io::Result<DiskId> {
    let mut name = [0; 16];
    getrandom::fill(&mut name).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(DiskId(name))
}

/// Where a token is reached.
type Addresses = std::collections::BTreeMap<Token, Ipv4Addr>;
