//! One RPC endpoint: a connection made when needed, requests with a deadline, errors without API keys.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    rpc::{
        client::{ClientBuilder, RpcClient},
        json_rpc::{RpcRecv, RpcSend},
    },
    sol_types::SolCall,
    transports::{
        RpcError as AlloyError, TransportErrorKind,
        ws::{WebSocketConfig, WsConnect},
    },
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    transport::{BoundedHttp, MAX_ANSWER},
    url::RpcUrl,
};

/// How long one request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Finality moves slowly and only ever protects: an old answer is a lower one.
const FINALIZED_FOR: Duration = Duration::from_secs(15);

/// One RPC endpoint. Cheap until the first request; reconnects by itself.
#[derive(Debug)]
pub struct Source {
    url: RpcUrl,
    client: Mutex<Option<RpcClient>>,
    /// The last answer about finality, and when it came.
    finalized: Mutex<Option<(Instant, Option<u64>)>>,
}

/// Why an endpoint could not be asked, or what it refused. Never holds an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No answer in time.
    #[error("{method}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// JSON-RPC method.
        method: &'static str,
    },
    /// No connection, or not JSON-RPC.
    #[error("{method}: {reason}")]
    Transport {
        /// JSON-RPC method.
        method: &'static str,
        /// What the transport said.
        reason: String,
    },
    /// The endpoint answered with an error.
    #[error("{method}: refused: {message}")]
    Refused {
        /// JSON-RPC method.
        method: &'static str,
        /// Its words.
        message: String,
        /// Revert data, when the contract refused.
        revert: Option<Bytes>,
    },
    /// The answer makes no sense.
    #[error("{method}: {reason}")]
    Nonsense {
        /// JSON-RPC method.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// The part of a block header that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    #[serde(deserialize_with = "alloy::serde::quantity::deserialize")]
    pub(super) number: u64,
    pub(super) hash: B256,
    #[serde(default)]
    pub(super) parent_hash: Option<B256>,
    #[serde(deserialize_with = "alloy::serde::quantity::deserialize")]
    pub(super) timestamp: u64,
    #[serde(default)]
    pub(super) base_fee_per_gas: Option<U256>,
}

impl Source {
    /// An endpoint that is not connected yet.
    #[must_use]
    pub const fn new(url: RpcUrl) -> Self {
        Self { url, client: Mutex::const_new(None), finalized: Mutex::const_new(None) }
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn id(&self) -> &str {
        self.url.id()
    }

    pub(super) const fn url(&self) -> &RpcUrl {
        &self.url
    }

    /// Sends one request. A connection that is dead is dropped, so that the next request makes a new one.
    pub(super) async fn request<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, RpcError> {
        let exchange = async {
            let client = self.client().await.map_err(|error| (self.explain(method, error), true))?;
            client.request(method, params).await.map_err(|error| {
                let dead = error.is_transport_error();
                (self.explain(method, error), dead)
            })
        };
        match timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err((error, dead))) => {
                if dead {
                    *self.client.lock().await = None;
                }
                Err(error)
            }
            Err(_) => {
                *self.client.lock().await = None;
                Err(RpcError::Timeout { method })
            }
        }
    }

    /// The connected client, shared with the head subscription.
    pub(super) async fn client(&self) -> Result<RpcClient, AlloyError<TransportErrorKind>> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = if self.url.is_websocket() {
            let bounds = WebSocketConfig::default().max_message_size(Some(MAX_ANSWER)).max_frame_size(Some(MAX_ANSWER));
            // Reconnecting is ours: a dead connection must be seen, not papered over for minutes.
            let connect = WsConnect::new(self.url.secret().as_str()).with_config(bounds).with_max_retries(0);
            ClientBuilder::default().pubsub(connect).await?
        } else {
            let transport = BoundedHttp::new(self.url.secret().clone())?;
            ClientBuilder::default().transport(transport, false)
        };
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Drops a connection found dead.
    pub(super) async fn disconnect(&self) {
        *self.client.lock().await = None;
    }

    pub(super) fn explain(&self, method: &'static str, error: AlloyError<TransportErrorKind>) -> RpcError {
        if let AlloyError::ErrorResp(payload) = &error {
            let message = self.url.redact(&payload.message).chars().take(300).collect();
            return RpcError::Refused { method, message, revert: payload.as_revert_data() };
        }
        let reason = if error.is_deser_error() {
            "the answer is not what the method returns".to_owned()
        } else {
            self.url.redact(&chain_of(&error)).chars().take(300).collect()
        };
        RpcError::Transport { method, reason }
    }

    /// The newest block.
    pub(super) async fn head(&self) -> Result<Header, RpcError> {
        self.header("latest").await?.ok_or_else(|| nonsense("eth_getBlockByNumber", "no latest block"))
    }

    /// A block of the canonical chain by height.
    pub(super) async fn header_at(&self, number: u64) -> Result<Option<Header>, RpcError> {
        let header = self.header(&format!("{number:#x}")).await?;
        match header {
            Some(header) if header.number != number => {
                Err(nonsense("eth_getBlockByNumber", "another block than asked for"))
            }
            header => Ok(header),
        }
    }

    /// Height of the latest finalized block, as it was at most [`FINALIZED_FOR`] ago; `None` where the chain or the endpoint has
    /// no such notion.
    pub(super) async fn finalized(&self) -> Option<u64> {
        let mut known = self.finalized.lock().await;
        if let Some((at, number)) = *known
            && at.elapsed() < FINALIZED_FOR
        {
            return number;
        }
        let number = self.header("finalized").await.ok().flatten().map(|header| header.number);
        *known = Some((Instant::now(), number));
        number
    }

    async fn header(&self, block: &str) -> Result<Option<Header>, RpcError> {
        self.request("eth_getBlockByNumber", (block.to_owned(), false)).await
    }

    /// EIP-155 chain id.
    pub(super) async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: alloy::primitives::U64 = self.request("eth_chainId", ()).await?;
        Ok(id.to())
    }

    /// Whether there is a contract at an address, at the newest block.
    pub(super) async fn has_code(&self, contract: Address) -> Result<bool, RpcError> {
        let code: Bytes = self.request("eth_getCode", (contract, "latest")).await?;
        Ok(!code.is_empty())
    }

    /// Calls a view of a contract in the state of one block, named by its hash (EIP-1898).
    pub(super) async fn call<C: SolCall + Send + Sync>(
        &self,
        contract: Address,
        block: B256,
        call: C,
    ) -> Result<C::Return, RpcError> {
        let transaction = json!({ "to": contract, "data": Bytes::from(call.abi_encode()) });
        let block = json!({ "blockHash": block, "requireCanonical": true });
        let answer: Bytes = self.request("eth_call", (transaction, block)).await?;
        C::abi_decode_returns(&answer)
            .map_err(|_| nonsense("eth_call", &format!("the answer does not decode as that of {}", C::SIGNATURE)))
    }
}

pub(super) fn nonsense(method: &'static str, reason: &str) -> RpcError {
    RpcError::Nonsense { method, reason: reason.to_owned() }
}

/// An error and its causes on one line.
fn chain_of(error: &dyn std::error::Error) -> String {
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
