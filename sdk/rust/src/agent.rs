//! The agent's local API: HTTP and JSON over its unix socket.

use std::{
    future::{Future, poll_fn},
    io,
    path::{Path, PathBuf},
    task::{Context, Poll},
    time::Duration,
};

use hyper::StatusCode;
use mesh_core::{
    id::TokenId,
    status::{RegistrationOffer, SCHEMA, Status},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    election::{Cast, LEADER_SCHEMA, Seat, VOTE_SCHEMA},
    error::{Advice, Error},
    http::Exchange,
    peers::{self, Peers},
};

/// A running agent answers within this time: normally at once, but the machine may stall for a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A vote is cast or refused within this time: the agent waits for the chain's endpoints.
const VOTE_WITHIN: Duration = Duration::from_secs(15);
/// Silence of the agent, which sends something every 15 s, after which it is asked again on a new connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer: a status of 65,536 peers is below that.
const MAX_ANSWER: usize = 64 << 20;
const WATCH: &str = "/v1/peers/watch";
#[cfg(feature = "tls")]
const TLS_WATCH: &str = "/v1/tls/config/watch";

/// The agent behind one socket, as it answers now. Each question has its own connection: an agent that was restarted is found again
/// at once. Applications use [`DstackP2p`](crate::DstackP2p); this is for programs that show what an agent reports, and for those
/// that elect a leader.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// Connects only when a request is made.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// [`Error::NoAgent`], [`Error::NotPermitted`], [`Error::Starting`], [`Error::WrongAgent`], [`Error::Refused`].
    pub async fn status(&self) -> Result<Status, Error> {
        let target = "/v1/status";
        self.read(target, SCHEMA, self.get(target).await?)
    }

    /// `GET /v1/peers`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn peers(&self) -> Result<Peers, Error> {
        let target = "/v1/peers";
        self.read(target, peers::SCHEMA, self.get(target).await?)
    }

    /// `GET /v1/registration`: the signed registration that anyone may submit, for `token` if one is given.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn registration(&self, token: Option<TokenId>) -> Result<RegistrationOffer, Error> {
        let target = match token {
            Some(token) => format!("/v1/registration?token={token}"),
            None => "/v1/registration".to_owned(),
        };
        self.parse(&target, self.get(&target).await?)
    }

    /// `GET /v1/leader`: who leads by the contract.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn leader(&self) -> Result<Seat, Error> {
        let target = "/v1/leader";
        self.read(target, LEADER_SCHEMA, self.get(target).await?)
    }

    /// `POST /v1/vote`: this node's vote against the leader of `seat`; where the seat is empty, one is elected. The node pays,
    /// where its address has funds.
    ///
    /// # Errors
    /// As [`Self::status`]; [`Error::NotPermitted`] where this process's user may not act for the node; [`Error::Refused`] where the
    /// seat has changed, or this node is no member.
    pub async fn vote(&self, seat: Seat) -> Result<Cast, Error> {
        let target = "/v1/vote";
        let ballot = json!({ "term": seat.term, "leader_token": seat.leader_token }).to_string();
        let exchange = Exchange::post(&self.socket, target, ballot.into_bytes());
        self.read(target, VOTE_SCHEMA, self.answer(target, exchange, VOTE_WITHIN).await?)
    }

    /// `GET target`, with the answer as it is.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn get(&self, target: &str) -> Result<Value, Error> {
        self.answer(target, Exchange::get(&self.socket, target), ANSWER_WITHIN).await
    }

    async fn answer(
        &self,
        target: &str,
        exchange: impl Future<Output = io::Result<Exchange>>,
        limit: Duration,
    ) -> Result<Value, Error> {
        let whole = async {
            let exchange = exchange.await?;
            let status = exchange.status;
            io::Result::Ok((status, exchange.whole_body(MAX_ANSWER).await?))
        };
        let (status, body) = self.in_time(whole, limit).await?;
        let body = body.ok_or_else(|| self.invalid_response(target, &format!("more than {} MiB", MAX_ANSWER >> 20)))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| self.invalid_response(target, "no JSON"));
        }
        Err(self.refusal(target, status, &serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Follows the list on a connection that lasts as long as this agent does.
    pub(crate) async fn watch(&self) -> Result<Hints, Error> {
        let exchange = self.in_time(Exchange::get(&self.socket, WATCH), ANSWER_WITHIN).await?;
        match exchange.status {
            StatusCode::OK => Ok(Hints { agent: self.clone(), exchange, given: false, end: None }),
            StatusCode::SERVICE_UNAVAILABLE => Err(self.silent("it takes no more connections now")),
            other => Err(self.invalid_response(WATCH, &format!("HTTP {other}"))),
        }
    }

    /// Follows the TLS keys on a connection that lasts as long as this agent does.
    #[cfg(feature = "tls")]
    pub(crate) async fn watch_tls(&self) -> Result<Exchange, Error> {
        let exchange = self.in_time(Exchange::get(&self.socket, TLS_WATCH), ANSWER_WITHIN).await?;
        if exchange.status == StatusCode::OK {
            return Ok(exchange);
        }
        let status = exchange.status;
        let body = self.in_time(exchange.whole_body(MAX_ANSWER), ANSWER_WITHIN).await?.unwrap_or_default();
        Err(self.refusal(TLS_WATCH, status, &serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// One of its lists.
    #[cfg(feature = "tls")]
    pub(crate) fn read_tls(&self, text: &[u8]) -> Result<crate::tls::TlsConfig, Error> {
        let answer = serde_json::from_slice(text).map_err(|_| self.invalid_response(TLS_WATCH, "no JSON"))?;
        self.read(TLS_WATCH, crate::tls::SCHEMA, answer)
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = io::Result<T>>, limit: Duration) -> Result<T, Error> {
        match timeout(limit, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::NotPermitted(Advice::new(
                format!("this process may not open the agent's socket `{}`", self.socket.display()),
                "let its user enter that directory: the socket itself is open to every user",
            ))),
            Ok(Err(error)) => Err(self.silent(&error.to_string())),
            Err(_) => Err(self.silent(&format!("no answer within {} s", limit.as_secs()))),
        }
    }

    fn read<T: DeserializeOwned>(&self, target: &str, schema: &str, answer: Value) -> Result<T, Error> {
        let found = answer.get("schema").and_then(Value::as_str).unwrap_or("none");
        if found != schema {
            return Err(Error::WrongAgent(Advice::new(
                format!("the agent at `{}` speaks `{found}`, not `{schema}`", self.socket.display()),
                "use a dstack-p2p of the agent's version",
            )));
        }
        self.parse(target, answer)
    }

    fn parse<T: DeserializeOwned>(&self, target: &str, answer: Value) -> Result<T, Error> {
        serde_json::from_value(answer).map_err(|error| self.invalid_response(target, &error.to_string()))
    }

    /// The agent's refusals are JSON: what failed, and what to do next.
    fn refusal(&self, target: &str, status: StatusCode, answer: &Value) -> Error {
        let word = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        if word("error").is_empty() {
            return self.invalid_response(target, &format!("HTTP {status}"));
        }
        let advice = Advice::new(format!("the agent at `{}`: {}", self.socket.display(), word("error")), word("hint"));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Error::Starting(advice),
            StatusCode::FORBIDDEN => Error::NotPermitted(advice),
            _ => Error::Refused(advice),
        }
    }

    fn silent(&self, detail: &str) -> Error {
        Error::NoAgent(Advice::new(
            format!("no agent answers at `{}`: {detail}", self.socket.display()),
            "start `p2p-agent` and look at its log, or name the socket of the one that runs",
        ))
    }

    fn invalid_response(&self, target: &str, what: &str) -> Error {
        Error::WrongAgent(Advice::new(
            format!("invalid response of the agent at `{}` to {target}: {what}", self.socket.display()),
            "name the agent's socket, and use a dstack-p2p of the agent's version",
        ))
    }
}

/// Signals that the agent's list may have changed. The list itself is then requested: so lists come by one path only, and they come
/// in order. Hints that were not waited for are merged.
pub(crate) struct Hints {
    agent: Agent,
    exchange: Exchange,
    given: bool,
    /// Why no more hints come.
    end: Option<String>,
}

impl Hints {
    /// Waits for the next hint. [`Error::NoAgent`] when the agent of this connection is gone.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        loop {
            if timeout(SILENCE, poll_fn(|cx| self.poll_word(cx))).await.is_err() {
                self.end = Some(format!("it said nothing for {} s", SILENCE.as_secs()));
            }
            self.alive()?;
            if std::mem::take(&mut self.given) {
                return Ok(());
            }
        }
    }

    /// [`Error::NoAgent`] when the agent of this connection is gone.
    pub(crate) async fn check(&mut self) -> Result<(), Error> {
        poll_fn(|cx| {
            let _ = self.poll_word(cx);
            Poll::Ready(())
        })
        .await;
        self.alive()
    }

    fn alive(&self) -> Result<(), Error> {
        self.end.as_ref().map_or(Ok(()), |end| Err(self.agent.silent(end)))
    }

    /// Ready when something arrived or the connection has ended, after everything that had arrived is consumed.
    fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut word = self.given || self.end.is_some();
        while self.end.is_none() {
            match self.exchange.poll_piece(cx) {
                // A keepalive is a comment without text.
                Poll::Ready(Some(Ok(piece))) => self.given |= piece.iter().any(|byte| !b":\r\n".contains(byte)),
                Poll::Ready(Some(Err(error))) => self.end = Some(error.to_string()),
                Poll::Ready(None) => self.end = Some("it ended the connection".to_owned()),
                Poll::Pending => break,
            }
            word = true;
        }
        if word { Poll::Ready(()) } else { Poll::Pending }
    }
}
