//! The local agent, as the commands see it: what the SDK asks of it, with exit codes for what goes wrong.

use std::path::PathBuf;

use anyhow::Context as _;
use dstack_p2p::{Agent, Error, Peers};
use mesh_core::{
    history::History,
    id::TokenId,
    status::{RegistrationOffer, Status},
};
use serde_json::Value;

use crate::failure::{AGENT_NOT_RUNNING, FAILED, Failure};

/// One agent, by its socket. Nothing is connected until something is asked.
pub(crate) struct AgentSocket(Agent);

impl AgentSocket {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(Agent::new(path))
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        self.0.status().await.map_err(|error| failure(&error, AGENT_NOT_RUNNING).into())
    }

    /// `GET /v1/peers`. A refusal ends the program with [`FAILED`].
    pub(crate) async fn peers(&self) -> anyhow::Result<Peers> {
        self.0.peers().await.map_err(|error| failure(&error, FAILED).into())
    }

    /// `GET /v1/peers`, as it is answered.
    pub(crate) async fn peers_as_answered(&self) -> anyhow::Result<Value> {
        self.0.get("/v1/peers").await.map_err(|error| failure(&error, FAILED).into())
    }

    /// `GET /v1/history`: what happened in the last hour.
    pub(crate) async fn history(&self) -> anyhow::Result<History> {
        let answer = self.0.get("/v1/history").await.map_err(|error| failure(&error, FAILED))?;
        serde_json::from_value(answer).context("this is no history: use the meshctl of the agent's version")
    }

    /// `GET /v1/registration`.
    pub(crate) async fn registration(&self, token: Option<TokenId>) -> anyhow::Result<RegistrationOffer> {
        self.0.registration(token).await.map_err(|error| failure(&error, FAILED).into())
    }
}

/// `refused` is the exit code for an agent that answers, and not what was asked.
fn failure(error: &Error, refused: u8) -> Failure {
    let advice = error.advice();
    let failure = Failure::new(&advice.message);
    match error {
        Error::NoAgent(_) => failure
            .hint("start `p2p-agent` and look at its log, or name another socket with `--socket PATH`")
            .exit_code(AGENT_NOT_RUNNING),
        Error::WrongAgent(_) => failure.hint("use the meshctl of the agent's version").exit_code(AGENT_NOT_RUNNING),
        Error::Refused(_) | Error::Starting(_) if advice.hint.is_empty() => failure.exit_code(refused),
        Error::Refused(_) | Error::Starting(_) => failure.hint(&advice.hint).exit_code(refused),
        Error::Invalid(_)
        | Error::NotAMember(_)
        | Error::NotPermitted(_)
        | Error::WrongContract(_)
        | Error::TimedOut(_) => failure.hint(&advice.hint).exit_code(AGENT_NOT_RUNNING),
    }
}
