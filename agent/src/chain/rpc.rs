//! One RPC endpoint: a connection made when needed, requests with a deadline, errors without API keys.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    pubsub::RawSubscription,
    rpc::{
        client::RpcClient,
        json_rpc::{RpcRecv, RpcSend},
    },
    sol_types::SolCall,
    transports::{RpcError as AlloyError, TransportErrorKind},
};
use mesh_contract::RpcUrl;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::connection::Connection;

/// How long one request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Finality moves slowly and only ever protects: an old answer is a lower one.
const FINALIZED_FOR: Duration = Duration::from_secs(15);
/// What the answer about finality may cost a read.
const FINALIZED_TIMEOUT: Duration = Duration::from_secs(1);

const SUBSCRIBE: &str = "eth_subscribe";

/// One RPC endpoint. Cheap until the first request; reconnects by itself.
#[derive(Debug)]
pub struct Source {
    url: RpcUrl,
    connection: Connection,
    /// When it was last asked about finality, and the last answer.
    finalized: Mutex<(Option<Instant>, Option<u64>)>,
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
    pub fn new(url: RpcUrl) -> Self {
        Self { url, connection: Connection::default(), finalized: Mutex::default() }
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn id(&self) -> &str {
        self.url.id()
    }

    pub(super) const fn url(&self) -> &RpcUrl {
        &self.url
    }

    /// Sends one request. A connection that is dead or silent is dropped, so that the next request makes a new one.
    pub(super) async fn request<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, RpcError> {
        self.with_client(method, async |client| client.request(method, params).await).await
    }

    /// Subscribes to new heads. Over WebSocket alone.
    pub(super) async fn subscribe(&self) -> Result<RawSubscription, RpcError> {
        let subscribe = async |client: &RpcClient| {
            let frontend = client.pubsub_frontend().ok_or_else(TransportErrorKind::pubsub_unavailable)?;
            let id: B256 = client.request(SUBSCRIBE, ("newHeads",)).await?;
            frontend.get_subscription(id).await
        };
        self.with_client(SUBSCRIBE, subscribe).await
    }

    /// Connecting, asking and answering together have [`REQUEST_TIMEOUT`].
    async fn with_client<R>(
        &self,
        method: &'static str,
        ask: impl AsyncFnOnce(&RpcClient) -> Result<R, AlloyError<TransportErrorKind>>,
    ) -> Result<R, RpcError> {
        let mut used = None;
        let exchange = async {
            let live = used.insert(self.connection.get(&self.url).await?);
            ask(&live.client).await
        };
        let outcome = timeout(REQUEST_TIMEOUT, exchange).await;
        let is_dead =
            outcome.as_ref().map_or(true, |answer| answer.as_ref().is_err_and(AlloyError::is_transport_error));
        if let Some(live) = used.filter(|_| is_dead) {
            self.connection.discard(&live);
        }
        match outcome {
            Ok(answer) => answer.map_err(|error| self.explain(method, error)),
            Err(_) => Err(RpcError::Timeout { method }),
        }
    }

    /// Drops the current connection: the next request makes a new one.
    pub(super) fn disconnect(&self) {
        self.connection.disconnect();
    }

    fn explain(&self, method: &'static str, error: AlloyError<TransportErrorKind>) -> RpcError {
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
    /// no such notion, or keeps silent when asked. Silence costs a read little, and not its connection.
    pub(super) async fn finalized(&self) -> Option<u64> {
        let mut known = self.finalized.lock().await;
        let (asked_at, number) = *known;
        if asked_at.is_some_and(|at| at.elapsed() < FINALIZED_FOR) {
            return number;
        }
        // Whoever drops this future has still asked.
        known.0 = Some(Instant::now());
        let ask = async {
            let live = self.connection.get(&self.url).await?;
            live.client.request::<_, Option<Header>>("eth_getBlockByNumber", ("finalized", false)).await
        };
        if let Ok(answer) = timeout(FINALIZED_TIMEOUT, ask).await {
            known.1 = answer.ok().flatten().map(|header| header.number);
        }
        known.1
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
