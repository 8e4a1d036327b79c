//! Hints that the chain moved: new heads by subscription where the URL is a WebSocket, by polling where it is not. What is
//! true is read afterwards; a hint that is lost or invented costs one read at most.

use std::{sync::Arc, time::Duration};

use alloy::{primitives::B256, transports::TransportErrorKind};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::sleep,
};

use super::rpc::{RpcError, Source};

/// How often an HTTP endpoint is asked for its head.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Heads that follow each other within this time are told together.
const HEAD_PAUSE: Duration = Duration::from_millis(100);
/// First wait after a subscription broke; doubled up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// Notifies `hint` whenever the head of `source` changes, for ever. Several hints before one is taken are one.
pub async fn watch(source: Arc<Source>, hint: Arc<Notify>) -> std::convert::Infallible {
    if source.url().is_websocket() { subscribe(&source, &hint).await } else { poll(&source, &hint).await }
}

async fn poll(source: &Source, hint: &Notify) -> std::convert::Infallible {
    let mut last: Option<B256> = None;
    loop {
        let head = source.head().await.ok().map(|header| header.hash);
        if head.is_some() && head != last {
            hint.notify_one();
        }
        last = head;
        sleep(POLL_INTERVAL).await;
    }
}

async fn subscribe(source: &Source, hint: &Notify) -> std::convert::Infallible {
    let mut retry = FIRST_RETRY;
    loop {
        match follow(source, hint, &mut retry).await {
            Ok(()) => tracing::debug!(source = source.id(), "head subscription ended"),
            Err(error) => tracing::debug!(source = source.id(), %error, "head subscription failed"),
        }
        source.disconnect().await;
        sleep(retry).await;
        retry = (retry * 2).min(MAX_RETRY);
    }
}

async fn follow(source: &Source, hint: &Notify, retry: &mut Duration) -> Result<(), RpcError> {
    const METHOD: &str = "eth_subscribe";
    let client = source.client().await.map_err(|error| source.explain(METHOD, error))?;
    let id: B256 = client.request(METHOD, ("newHeads",)).await.map_err(|error| source.explain(METHOD, error))?;
    let frontend =
        client.pubsub_frontend().ok_or_else(|| source.explain(METHOD, TransportErrorKind::pubsub_unavailable()))?;
    let mut heads = frontend.get_subscription(id).await.map_err(|error| source.explain(METHOD, error))?;
    // Heads between the last connection and this one were missed.
    hint.notify_one();
    loop {
        match heads.recv().await {
            // Having missed some is as good as having seen one.
            Ok(_) | Err(RecvError::Lagged(_)) => hint.notify_one(),
            Err(RecvError::Closed) => return Ok(()),
        }
        *retry = FIRST_RETRY;
        // An endpoint that sends heads without end gets no read without end.
        sleep(HEAD_PAUSE).await;
        heads = heads.resubscribe();
        hint.notify_one();
    }
}
