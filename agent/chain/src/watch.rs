//! Hints that the chain moved: new heads by subscription where the URL is a WebSocket, by polling where it is not. What is
//! true is read afterwards; a hint that is lost or invented costs one read at most.

use std::{sync::Arc, time::Duration};

use alloy_primitives::B256;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{RpcError, Source};

/// How often an HTTP endpoint, or a silent subscription's, is asked for its head.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Heads that follow each other within this time are one hint.
const HEAD_PAUSE: Duration = Duration::from_millis(100);
/// First wait after a subscription broke; doubled up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// A subscription that left out so many heads in a row is made anew.
const MISSED_HEADS: u32 = 2;

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
            Ok(why) => tracing::debug!(source = source.id(), why, "head subscription ended"),
            Err(error) => tracing::debug!(source = source.id(), %error, "head subscription failed"),
        }
        source.disconnect();
        // The endpoint may know no subscriptions: until the next try it is asked.
        let Err(_) = timeout(retry, poll(source, hint)).await;
        retry = (retry * 2).min(MAX_RETRY);
    }
}

/// Follows one subscription until it ends, and says why it ended. A subscription that is alive and says nothing is found by
/// asking for the head while it is silent.
async fn follow(source: &Source, hint: &Notify, retry: &mut Duration) -> Result<&'static str, RpcError> {
    let mut heads = source.subscribe().await?;
    // Heads between the last connection and this one were missed.
    hint.notify_one();
    let mut last: Option<B256> = None;
    let (mut unannounced, mut settling) = (0, false);
    loop {
        match timeout(POLL_INTERVAL, heads.changed()).await {
            Ok(Err(_)) => return Ok("closed"),
            // Having missed some is as good as having seen one.
            Ok(Ok(())) => {
                hint.notify_one();
                (*retry, unannounced, settling) = (FIRST_RETRY, 0, true);
                // An endpoint that sends heads without end gets no read without end.
                sleep(HEAD_PAUSE).await;
                last = heads.borrow_and_update().map_or(last, |header| Some(header.hash));
                hint.notify_one();
            }
            Err(_) => {
                // A busy endpoint announces a head before it answers from it: what was read then may be the state before.
                if std::mem::take(&mut settling) {
                    hint.notify_one();
                }
                let head = match source.head().await {
                    Ok(header) => header.hash,
                    // Busy, and not dead.
                    Err(RpcError::Refused { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let before = last.replace(head);
                if before != last {
                    hint.notify_one();
                    // The first one may be as old as the subscription.
                    unannounced += u32::from(before.is_some());
                }
                if unannounced >= MISSED_HEADS {
                    return Ok("silent while the head moved");
                }
            }
        }
    }
}
