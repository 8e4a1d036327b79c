//! The connection to one RPC endpoint: made when needed, one at a time, shared by all requests, dropped once it is dead.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    RpcUrl,
    transport::{Dial, Transport},
};

/// No lock is held across the network but `connecting`, and that only by callers that wait for a connection, each with a deadline
/// of its own.
#[derive(Debug)]
pub(crate) struct Connection {
    dial: Arc<dyn Dial>,
    current: Mutex<Option<Live>>,
    /// How many were made.
    connecting: tokio::sync::Mutex<u64>,
}

/// A connection that was made, by its number.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    number: u64,
    pub(crate) transport: Transport,
}

impl Connection {
    /// None yet: the first request makes it, with `dial`.
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, current: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// The current connection, or a new one. The WebSocket's upgrade has no deadline of its own: the caller has one, and may drop
    /// this future at any point.
    pub(crate) async fn get(&self, url: &RpcUrl) -> Result<Live, String> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut made = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let transport = Transport::connect(url, Arc::clone(&self.dial)).await?;
        *made += 1;
        let live = Live { number: *made, transport };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        Ok(live)
    }

    /// Drops the connection that was found dead; not the one that may have taken its place.
    pub(crate) fn discard(&self, dead: &Live) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|live| live.number == dead.number);
    }

    /// Drops whatever connection there is.
    pub(crate) fn disconnect(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn current(&self) -> Option<Live> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
