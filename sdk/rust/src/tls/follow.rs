//! Following `/v1/tls/config/watch`, over restarts of the agent.

use std::{future::poll_fn, sync::Arc, time::Duration};

use mesh_core::id::{B256, TokenId};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::config::TlsConfig;
use crate::{
    agent::Agent,
    error::{Advice, Error},
    http::Exchange,
};

/// Silence of the agent, which sends a list every 5 s, after which it is asked again on a new connection.
const SILENCE: Duration = Duration::from_secs(10);
/// Time until the next attempt to connect.
const RETRY: Duration = Duration::from_millis(200);
/// Bytes of a list: one of 65,536 members is below that.
const MAX_LINE: usize = 64 << 20;

/// The last list, and until when it may be believed.
#[derive(Debug, Default)]
pub(super) struct View {
    config: Option<TlsConfig>,
    /// None: without end.
    expires: Option<Instant>,
}

impl View {
    /// `None` before the first list, and after the last one expired.
    pub(super) fn config(&self) -> Option<&TlsConfig> {
        let is_over = self.expires.is_some_and(|expires| Instant::now() >= expires);
        self.config.as_ref().filter(|_| !is_over)
    }
}

/// Starts to follow, and waits until there is a list: what hinders it is the error after so long.
pub(super) async fn start(agent: Agent, within: Duration) -> Result<(watch::Receiver<Arc<View>>, AbortHandle), Error> {
    let (views, mut receiver) = watch::channel(Arc::default());
    let (failures, failure) = watch::channel(None);
    let socket = agent.socket().display().to_string();
    let follower = tokio::spawn(follow(agent, views, failures)).abort_handle();
    let first = timeout(within, receiver.wait_for(|view: &Arc<View>| view.config().is_some())).await.is_ok();
    if first {
        return Ok((receiver, follower));
    }
    follower.abort();
    let silent =
        || Error::NoAgent(Advice::new(format!("the agent at `{socket}` gives no list of TLS keys"), "look at its log"));
    Err(failure.borrow().clone().unwrap_or_else(silent))
}

async fn follow(agent: Agent, views: watch::Sender<Arc<View>>, failures: watch::Sender<Option<Error>>) {
    loop {
        let error = match agent.watch_tls().await {
            Ok(exchange) => follow_one(&agent, exchange, &views).await,
            Err(error) => error,
        };
        if failures.borrow().as_ref() != Some(&error) {
            tracing::info!("the TLS keys stay as they were: {}", error.advice().message);
        }
        failures.send_replace(Some(error));
        sleep(RETRY).await;
    }
}

/// Follows this agent until it is gone.
async fn follow_one(agent: &Agent, mut exchange: Exchange, views: &watch::Sender<Arc<View>>) -> Error {
    let gone =
        |what: &str| Error::NoAgent(Advice::new(format!("the agent at `{}` {what}", agent.socket().display()), ""));
    let mut line = Vec::new();
    loop {
        let piece = match timeout(SILENCE, poll_fn(|cx| exchange.poll_piece(cx))).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return gone(&error.to_string()),
            Ok(None) => return gone("ended the connection"),
            Err(_) => return gone("is silent"),
        };
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.len() > MAX_LINE {
                return gone("sends a list without an end");
            }
            if !line.ends_with(b"\n") {
                continue;
            }
            if let Some(text) = line.strip_prefix(b"data:") {
                match agent.read_tls(text) {
                    Ok(config) => {
                        let expires = config.valid_for().map(|valid_for| Instant::now() + valid_for);
                        views.send_replace(Arc::new(View { config: Some(config), expires }));
                    }
                    Err(error) => return error,
                }
            }
            line.clear();
        }
    }
}

/// Until `token` is no member with that key: by a list, by the last list's end, or because nothing is followed any longer.
pub(super) async fn until_changed(mut views: watch::Receiver<Arc<View>>, token: TokenId, pin: B256) {
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if view.config().and_then(|config| config.pin(token)) != Some(pin) {
            return;
        }
        let expires = async {
            match view.expires {
                Some(expires) => sleep_until(expires).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = expires => {}
        }
    }
}
