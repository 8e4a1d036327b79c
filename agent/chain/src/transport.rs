//! How an endpoint is asked: JSON-RPC over HTTP or a WebSocket, each over TCP or TLS. An endpoint outside of the TEE may answer
//! anything, of any length, or never: answers are bounded here, and the caller sets a deadline.

mod dial;
mod http;
mod websocket;

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::{RpcUrl, json_rpc::ErrorObject};

pub(crate) use self::dial::Tcp;
pub use self::dial::{Dial, Dialer, Link};
use self::{http::Http, websocket::WebSocket};

/// The longest answer that is read, bytes. A page of 500 peers is about half a megabyte of hex.
pub(crate) const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The endpoint answered with an error.
    Refused(ErrorObject),
    /// It was asked too often.
    Busy {
        /// For how long it wants to be left alone, if it says so.
        wait: Option<Duration>,
        /// What it said.
        reason: String,
    },
    /// No connection, or no JSON-RPC on it. The text may hold what the endpoint said, and the URL.
    Transport(String),
}

/// A connection to an endpoint. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Http(Box<Http>),
    WebSocket(WebSocket),
}

impl Transport {
    /// Connects where the transport has one connection: HTTP connects when it is first asked.
    pub(crate) async fn connect(url: &RpcUrl, dial: Arc<dyn Dial>) -> Result<Self, String> {
        if url.is_websocket() {
            WebSocket::connect(url, dial).await.map(Self::WebSocket)
        } else {
            Http::new(url.secret(), dial).map(|http| Self::Http(Box::new(http)))
        }
    }

    /// Asks; the result's JSON.
    pub(crate) async fn ask(&self, id: u64, request: String) -> Result<Box<RawValue>, Failure> {
        let response = match self {
            Self::Http(http) => http.ask(request).await?,
            Self::WebSocket(socket) => socket.ask(id, request, None).await.map_err(Failure::Transport)?,
        };
        // A cache in between, or the endpoint, may answer with what it said before.
        if !response.answers(id) {
            return Err(Failure::Transport("the answer is that to another request".to_owned()));
        }
        response.into_result().map_err(refused)
    }

    /// Asks for a subscription. The channel changes with everything that it announces. Over a WebSocket alone, and one for each
    /// connection.
    pub(crate) async fn subscribe(&self, id: u64, request: String) -> Result<watch::Receiver<()>, Failure> {
        let Self::WebSocket(socket) = self else {
            return Err(Failure::Transport("subscriptions need a WebSocket".to_owned()));
        };
        let (announce, events) = watch::channel(());
        let response = socket.ask(id, request, Some(announce)).await.map_err(Failure::Transport)?;
        response.into_result().map_err(refused)?;
        Ok(events)
    }
}

fn refused(error: ErrorObject) -> Failure {
    if error.is_busy() { Failure::Busy { wait: None, reason: error.message } } else { Failure::Refused(error) }
}

/// An error and its causes on one line, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
