//! The local agent: HTTP and JSON over its unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use mesh_core::status::{SCHEMA, Status};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use crate::failure::{AGENT_NOT_RUNNING, FAILED, Failure};

/// An agent that takes longer than this to answer is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A status of 65,536 peers is below 64 MiB.
const MAX_ANSWER: usize = 64 << 20;

/// One agent, by its socket. Nothing is connected until something is asked.
pub(crate) struct AgentSocket {
    path: PathBuf,
}

impl AgentSocket {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        let value = self.answer("/v1/status", AGENT_NOT_RUNNING).await?;
        let schema = value.get("schema").and_then(Value::as_str).unwrap_or("none");
        if schema != SCHEMA {
            let failure =
                Failure::new(format!("the agent at `{}` speaks `{schema}`, not `{SCHEMA}`", self.path.display()))
                    .hint("use the meshctl of the agent's version")
                    .exit_code(AGENT_NOT_RUNNING);
            return Err(failure.into());
        }
        serde_json::from_value(value).with_context(|| self.nonsense("/v1/status"))
    }

    /// `GET target`, which must succeed. A refusal ends the program with [`FAILED`].
    pub(crate) async fn ok(&self, target: &str) -> anyhow::Result<Value> {
        self.answer(target, FAILED).await
    }

    async fn answer(&self, target: &str, refused: u8) -> anyhow::Result<Value> {
        let (status, body) = self.get(target).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).with_context(|| self.nonsense(target));
        }
        // The agent's refusals are JSON: what failed, and what to do next.
        let refusal: Value = serde_json::from_slice(&body).unwrap_or_default();
        let word = |name: &str| refusal.get(name).and_then(Value::as_str).map(str::to_owned);
        let reason = word("error").unwrap_or_else(|| format!("answered {status} to {target}"));
        let failure = Failure::new(format!("the agent at `{}`: {reason}", self.path.display())).exit_code(refused);
        Err(match word("hint") {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
        .into())
    }

    async fn get(&self, target: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = timeout(ANSWER_WITHIN, exchange(&self.path, target)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.context(self.silent(None))),
            Err(_) => Err(self.silent(Some("no answer within 5s")).into()),
        }
    }

    fn silent(&self, detail: Option<&str>) -> Failure {
        let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        Failure::new(format!("no agent answers at `{}`{detail}", self.path.display()))
            .hint("start `p2p-agent` and look at its log, or name another socket with `--socket PATH`")
            .exit_code(AGENT_NOT_RUNNING)
    }

    fn nonsense(&self, target: &str) -> Failure {
        Failure::new(format!("cannot understand what the agent at `{}` says to {target}", self.path.display()))
            .hint("use the meshctl of the agent's version")
            .exit_code(AGENT_NOT_RUNNING)
    }
}

async fn exchange(path: &Path, target: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(target).header(header::HOST, "p2p-agent").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection does the reading and writing; it ends when the sender is dropped, or when the agent hangs up.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}
