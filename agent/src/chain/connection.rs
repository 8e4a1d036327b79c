//! The connection to one RPC endpoint: made when needed, one at a time, shared by all requests, dropped once it is dead.

use std::sync::{Mutex, PoisonError};

use alloy::{
    rpc::client::{ClientBuilder, RpcClient},
    transports::{
        TransportError,
        ws::{WebSocketConfig, WsConnect},
    },
};
use mesh_contract::{BoundedHttp, MAX_ANSWER, RpcUrl};

/// Nothing is locked while anybody waits for the network but `connecting`, and that only by those who wait for a connection,
/// each with a deadline of its own.
#[derive(Debug, Default)]
pub(super) struct Connection {
    current: Mutex<Option<Live>>,
    /// How many were made.
    connecting: tokio::sync::Mutex<u64>,
}

/// A connection that was made, by its number.
#[derive(Debug, Clone)]
pub(super) struct Live {
    number: u64,
    pub(super) client: RpcClient,
}

impl Connection {
    /// The current connection, or a new one. Neither TCP nor the WebSocket's upgrade has a deadline of its own: the caller has
    /// one, and may drop this future at any point.
    pub(super) async fn get(&self, url: &RpcUrl) -> Result<Live, TransportError> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut made = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let client = connect(url).await?;
        *made += 1;
        let live = Live { number: *made, client };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        Ok(live)
    }

    /// Drops the connection that was found dead; not the one that may have taken its place.
    pub(super) fn discard(&self, dead: &Live) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|live| live.number == dead.number);
    }

    /// Drops whatever connection there is.
    pub(super) fn disconnect(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn current(&self) -> Option<Live> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn connect(url: &RpcUrl) -> Result<RpcClient, TransportError> {
    if !url.is_websocket() {
        return Ok(ClientBuilder::default().transport(BoundedHttp::new(url.secret().clone())?, false));
    }
    let bounds = WebSocketConfig::default().max_message_size(Some(MAX_ANSWER)).max_frame_size(Some(MAX_ANSWER));
    // Reconnecting is ours: a dead connection must be seen, not papered over for minutes.
    let connect = WsConnect::new(url.secret().as_str()).with_config(bounds).with_max_retries(0);
    ClientBuilder::default().pubsub(connect).await
}
