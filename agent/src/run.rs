//! The driver: the only `select!` and the only clock. It feeds facts to [`mesh_core::agent::Agent`] and starts what the agent
//! asks for; every decision is the agent's.

mod clock;
mod tasks;

use std::{convert::Infallible, sync::Arc};

use anyhow::{Context as _, bail};
use mesh_core::{
    agent::{Agent, Command, Input},
    registration::Domain,
};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::sleep_until,
};

pub use clock::Clock;
pub use tasks::{Chain, Shell};

use crate::{
    api::{ApiDriver, Question, Snapshot},
    link::Links,
    notify::ServiceManager,
    tunnel::Tunnel,
};
use tasks::{Done, Tasks};

/// What reaches the driver from outside.
pub struct Outside {
    /// Something may have changed on chain.
    pub chain_moved: Arc<Notify>,
    /// A link, address or route changed.
    pub machine_changed: Arc<Notify>,
    /// An orderly stop is asked for; at the second time the driver leaves as it is.
    pub stop: Arc<Notify>,
    /// Tasks that run for ever. One that ends ends the driver.
    pub background: JoinSet<std::io::Result<Infallible>>,
    /// The local API.
    pub api: ApiDriver,
    /// systemd, if it is there.
    pub service: ServiceManager,
}

/// Runs until the agent says [`Command::Stop`].
///
/// # Errors
/// What cannot be tried again: the mesh network is in use on this machine, the RPC endpoints are of another chain, a task
/// panicked, or a second stop cut the first short.
pub async fn run<T: Tunnel, L: Links, C: Chain>(
    mut agent: Agent,
    shell: Shell<T, L, C>,
    mut outside: Outside,
    clock: Clock,
) -> anyhow::Result<()> {
    let mut tasks = Tasks::new(shell);
    let mut stopping = false;
    let mut told = Told::default();
    loop {
        while let Some(command) = agent.poll_command() {
            if command == Command::Stop {
                tasks.finish_saving().await;
                return Ok(());
            }
            tasks.start(command, agent.network(), || domain(&agent, &clock));
        }
        told.tell(&agent, &clock, &outside);
        let (deadline, reason) = clock.deadline(agent.poll_timeout());
        let input = tokio::select! {
            done = tasks.next() => match done.context("a task of the agent failed")? {
                Done::Input(input) => *input,
                Done::Saved | Done::Nothing => continue,
                Done::Fatal(error) => return Err(error),
            },
            () = outside.chain_moved.notified() => Input::Hint,
            () = outside.machine_changed.notified() => { tasks.observe(agent.network()); continue }
            question = outside.api.next() => { answer(&agent, &clock, question); continue }
            () = sleep_until(deadline) => { tracing::trace!(reason, "wake"); Input::Timeout }
            () = outside.stop.notified() => {
                if stopping {
                    bail!("stopped for the second time: leaving at once; the guard route may be left");
                }
                stopping = true;
                outside.service.stopping();
                tracing::info!("stopping");
                Input::Shutdown
            }
            Some(ended) = outside.background.join_next() => return Err(background_error(ended)),
        };
        agent.handle(input, clock.now());
    }
}

/// The contract's domain as the agent has accepted it.
fn domain(agent: &Agent, clock: &Clock) -> Option<Domain> {
    let registry = agent.status(clock.now()).registry;
    registry.chain_id.map(|chain_id| Domain { chain_id, contract: registry.contract })
}

fn answer(agent: &Agent, clock: &Clock, question: Option<Question>) {
    let Some(question) = question else { return };
    let now = clock.now();
    let snapshot = Snapshot {
        status: agent.status(now),
        not_ready: agent.readiness(now).err().map(|reason| reason.to_string()),
        offer: agent.offer().cloned(),
        counters: agent.counters().clone(),
    };
    // A caller that went away does not want its answer.
    drop(question.send(Box::new(snapshot)));
}

fn background_error(ended: Result<std::io::Result<Infallible>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => anyhow::Error::new(error).context("the local API ended"),
        Err(error) => anyhow::Error::new(error).context("a background task failed"),
    }
}

/// What API watchers and the service manager were last told.
#[derive(Default)]
struct Told {
    ready: Option<bool>,
}

impl Told {
    fn tell(&mut self, agent: &Agent, clock: &Clock, outside: &Outside) {
        let now = clock.now();
        outside.api.publish(&agent.status(now));
        let readiness = agent.readiness(now);
        if self.ready == Some(readiness.is_ok()) {
            return;
        }
        match &readiness {
            Ok(()) => {
                tracing::info!("ready");
                if self.ready != Some(true) {
                    outside.service.ready();
                }
                outside.service.status("the mesh is ready");
            }
            Err(reason) => {
                if self.ready == Some(true) {
                    tracing::warn!(%reason, "not ready any more");
                }
                outside.service.status(&format!("not ready: {reason}"));
            }
        }
        self.ready = Some(readiness.is_ok());
    }
}
