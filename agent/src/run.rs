//! The driver: the only `select!` and the only clock. It feeds facts to [`mesh_core::agent::Agent`] and starts what the agent
//! asks for; every decision is the agent's.

pub mod check;
pub mod election;
pub mod endpoint;
pub mod news;
pub mod notify;
pub mod offer;
pub mod process;
pub mod reload;
pub mod sandbox;

mod applications;
mod clock;
mod log_file;
mod start;
mod tasks;
mod tls;
mod transactions;

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use mesh_core::{
    agent::{Adjustments, Agent, Command, Input, OwnEndpoint, PathsSeen, TlsMembers},
    status::MembershipState,
};
use mesh_paths::shell::PathKeeper;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::sleep_until,
};

pub use clock::Clock;
pub use start::{certificate, start};
pub use tasks::{Chain, Shell};
pub use tls::Running as TlsRunning;

use crate::{
    api::{ApiDriver, PeersView, Question, Snapshot},
    device::{link::Links, tunnel::Tunnel},
};
use news::NewsPort;
use notify::ServiceManager;
use tasks::{Done, Tasks};

/// What reaches the driver from outside.
pub struct Outside {
    /// Something may have changed on chain.
    pub chain_moved: Arc<Notify>,
    /// A link, address or route changed.
    pub machine_changed: watch::Receiver<()>,
    /// Where this node is reached.
    pub endpoint: watch::Receiver<OwnEndpoint>,
    /// What the operator decides again.
    pub adjustments: watch::Receiver<Adjustments>,
    /// An orderly stop is asked for; at the second time the driver leaves as it is.
    pub stop: Arc<Notify>,
    /// Where peers tell what they read, for a node with a mesh address.
    pub news: Option<NewsPort>,
    /// The paths to the peers, where there is more than one to each.
    pub paths: Option<PathKeeper>,
    /// Who takes part in TLS handshakes, for what lets callers in: published after everything that the agent learned, with a time that
    /// counts from [`Clock::epoch`]. Marked as changed where the members are others, or may be believed for another time.
    pub tls_members: Option<watch::Sender<TlsMembers>>,
    /// What runs for TLS with members, for status.
    pub tls: Option<TlsRunning>,
    /// Tasks that run for ever. One that ends ends the driver.
    pub background: JoinSet<std::io::Result<Infallible>>,
    /// The local API.
    pub api: ApiDriver,
    /// systemd, if it is there.
    pub service: ServiceManager,
}

/// Runs until the agent says [`Command::Stop`]. Whatever the outcome, every task is over then.
///
/// # Errors
/// What cannot be tried again: the mesh network is in use on this machine, the RPC endpoints are of another chain, a task
/// panicked, or a second stop cut the first short.
pub async fn run<T: Tunnel, L: Links, C: Chain>(
    agent: Agent,
    shell: Shell<T, L, C>,
    mut outside: Outside,
    clock: Clock,
) -> anyhow::Result<()> {
    let mut tasks = Tasks::new(shell);
    let outcome = drive(agent, &mut tasks, &mut outside, clock).await;
    tasks.end().await;
    if let (Ok(()), Some(paths)) = (&outcome, &outside.paths) {
        paths.stop().await;
    }
    outside.background.shutdown().await;
    outcome
}

async fn drive<T: Tunnel, L: Links, C: Chain>(
    mut agent: Agent,
    tasks: &mut Tasks<T, L, C>,
    outside: &mut Outside,
    clock: Clock,
) -> anyhow::Result<()> {
    let mut stopping = false;
    let mut reported = Reported::default();
    loop {
        // First of all: a member that has left loses its connections now.
        if let Some(members) = &outside.tls_members {
            publish(members, agent.tls_members(clock.now()));
        }
        while let Some(command) = agent.poll_command() {
            if command == Command::Stop {
                tasks.finish_saving().await;
                return Ok(());
            }
            if let (Command::SetPathPeers(peers), Some(paths), Some(network)) =
                (&command, &outside.paths, agent.network())
            {
                paths.set_peers(peers.clone(), network);
            }
            if command == Command::TellPeers {
                tasks.tell_peers(outside.paths.as_ref().map(PathKeeper::tell_stopping));
            }
            if let Command::SendNews { to, message } = command {
                if let Some(news) = &outside.news {
                    news.send(to, message);
                }
                continue;
            }
            tasks.start(command, agent.guarded_network(), agent.domain());
        }
        if let Some(news) = &outside.news {
            news.set_address(agent.device_address());
        }
        let held_back = reported.update(&agent, &clock, outside).map(|at| (at, "publish to watchers"));
        let fed = outside.service.feed(clock.now().since_start).map(|at| (at, "feed the watchdog"));
        let (deadline, reason) = clock.deadline(agent.poll_timeout().into_iter().chain(held_back).chain(fed).min());
        let input = tokio::select! {
            done = tasks.next() => match done.context("a task of the agent failed")? {
                Done::Input(input) => *input,
                Done::Nothing => continue,
                Done::Fatal(error) => return Err(error),
            },
            () = outside.chain_moved.notified() => Input::Hint,
            // Both senders live in background tasks; that one ends is noticed below.
            Ok(()) = outside.machine_changed.changed() => { tasks.observe(agent.guarded_network()); continue }
            Ok(()) = outside.endpoint.changed() => Input::OwnEndpoint(*outside.endpoint.borrow_and_update()),
            Ok(()) = outside.adjustments.changed() => {
                Input::Adjusted(Box::new(outside.adjustments.borrow_and_update().clone()))
            }
            seen = next_paths(&mut outside.paths) => Input::Paths(Box::new(seen)),
            heard = next_news(&mut outside.news) => heard,
            question = outside.api.next() => { answer(&agent, tasks, &clock, outside, question); continue }
            () = sleep_until(deadline) => { tracing::trace!(reason, "wake"); Input::Timeout }
            () = outside.stop.notified() => {
                if stopping {
                    bail!("stopped for the second time: leaving at once");
                }
                stopping = true;
                tasks.close();
                outside.service.stopping();
                tracing::info!("stopping");
                Input::Shutdown
            }
            Some(ended) = outside.background.join_next() => return Err(background_error(ended)),
        };
        agent.handle(input, clock.now());
    }
}

fn publish(members: &watch::Sender<TlsMembers>, now: TlsMembers) {
    members.send_if_modified(|known| {
        let is_same = known.expires_at == now.expires_at
            && (Arc::ptr_eq(&known.members, &now.members) || known.members == now.members);
        *known = now;
        !is_same
    });
}

async fn next_paths(paths: &mut Option<PathKeeper>) -> PathsSeen {
    match paths {
        Some(paths) => paths.next().await,
        None => pending().await,
    }
}

async fn next_news(news: &mut Option<NewsPort>) -> Input {
    match news {
        Some(news) => news.next().await,
        None => pending().await,
    }
}

fn answer<T: Tunnel, L: Links, C: Chain>(
    agent: &Agent,
    tasks: &mut Tasks<T, L, C>,
    clock: &Clock,
    outside: &Outside,
    question: Question,
) {
    let now = clock.now();
    // A caller that went away does not want its answer.
    match question {
        Question::Everything(reply) => {
            let mut status = agent.status(now);
            if let Some(tls) = &outside.tls {
                tls.add_to(&mut status.agent);
            }
            let (offer, counters) = (agent.offer().cloned(), agent.counters().clone());
            drop(reply.send(Ok(Box::new(Snapshot { status, offer, counters, requests: tasks.requests() }))));
        }
        Question::Readiness(reply) => {
            drop(reply.send(Ok(agent.readiness(now).map_err(|reason| reason.to_string()))));
        }
        Question::Peers(reply) => {
            drop(reply.send(Ok(outside.api.show(PeersView::of(&agent.status(now), agent.dev_urls())))))
        }
        Question::History(reply) => drop(reply.send(Ok(agent.history(now)))),
        Question::Leader(reply) => tasks.answer_leader(reply),
        Question::Vote(ballot, reply) => {
            let own = agent.status(now).own;
            let token = own.token_id.filter(|_| own.membership == MembershipState::Active);
            tasks.vote(ballot, token.zip(agent.domain()), reply);
        }
    }
}

fn background_error(ended: Result<std::io::Result<Infallible>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => anyhow::Error::new(error).context("a background task ended"),
        Err(error) => anyhow::Error::new(error).context("a background task failed"),
    }
}

/// What API watchers and the service manager know.
#[derive(Default)]
struct Reported {
    was_ready: bool,
    /// The last line for `systemctl status`.
    line: String,
}

impl Reported {
    /// Reports what has changed. Returns when to report again, if something is held back.
    fn update(&mut self, agent: &Agent, clock: &Clock, outside: &mut Outside) -> Option<Duration> {
        let now = clock.now();
        let held_back = outside.api.publish(now.since_start, || PeersView::of(&agent.status(now), agent.dev_urls()));
        let readiness = agent.readiness(now);
        match &readiness {
            Ok(()) if !self.was_ready => {
                tracing::info!("ready");
                // The device is up and its port bound, the local API answers, and every peer is configured.
                outside.service.ready();
            }
            Err(reason) if self.was_ready => tracing::warn!(%reason, "not ready any more"),
            Ok(()) | Err(_) => {}
        }
        self.was_ready = readiness.is_ok();
        let line = readiness.map_or_else(|reason| format!("not ready: {reason}"), |()| "the mesh is ready".to_owned());
        if line != self.line {
            outside.service.status(&line);
            self.line = line;
        }
        held_back
    }
}
