//! One RPC endpoint: a connection made when needed, requests with a deadline, answers in types and errors in safe words.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::{
    SolCall,
    abi::{AbiDecoderConfig, Token, decode_sequence_with_config},
};
use mesh_contract::DstackClusterNFT as contract;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use crate::{
    EndpointMessage, RpcError, RpcUrl,
    block::{At, CallRequest, Header, Log, Receipt},
    connection::Connection,
    counts::{Counts, Requests},
    json_rpc::{self, NO_PARAMETERS},
    proven::{self, AccountProof, History},
    rest::Rest,
    transport::{Dial, Failure, MAX_ANSWER, Tcp, Transport},
    watch::Reached,
};

/// How long one request may take, where the caller sets nothing else.
const PATIENCE: Duration = Duration::from_secs(3);

/// Finality moves slowly and only ever protects: an old answer is a lower one.
const FINALIZED_FOR: Duration = Duration::from_secs(30);
/// What the answer about finality may cost a read.
const FINALIZED_TIMEOUT: Duration = Duration::from_secs(1);

const BLOCK: &str = "eth_getBlockByNumber";
pub(crate) const CALL: &str = "eth_call";
pub(crate) const LOGS: &str = "eth_getLogs";
pub(crate) const PROOF: &str = "eth_getProof";
pub(crate) const SEND: &str = "eth_sendRawTransaction";
const SUBSCRIBE: &str = "eth_subscribe";

/// One RPC endpoint. Cheap until the first request; reconnects by itself.
#[derive(Debug)]
pub struct Source {
    url: RpcUrl,
    patience: Duration,
    connection: Connection,
    requests: AtomicU64,
    counts: Counts,
    rest: std::sync::Mutex<Rest>,
    /// When it was last asked about finality, and the last answer.
    finalized: Mutex<(Option<Instant>, Option<u64>)>,
}

/// What a call is tried against besides the chain: code, nonces and storage of accounts.
pub type StateOverride = BTreeMap<Address, AccountOverride>;

/// See [`StateOverride`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccountOverride {
    /// Its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Bytes>,
    /// Its nonce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<U64>,
    /// Words of its storage; the others stay.
    #[serde(rename = "stateDiff", skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<B256, B256>,
}

impl Source {
    /// An endpoint that is not connected yet. One request may take 3 s.
    #[must_use]
    pub fn new(url: RpcUrl) -> Self {
        Self {
            url,
            patience: PATIENCE,
            connection: Connection::new(Arc::new(Tcp::default())),
            requests: AtomicU64::new(1),
            counts: Counts::default(),
            rest: std::sync::Mutex::default(),
            finalized: Mutex::default(),
        }
    }

    /// The same; connecting, asking and answering together may take so long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same; its connections are made by `dial` instead of TCP. To be set before the first request.
    #[must_use]
    pub fn with_dial(self, dial: Arc<dyn Dial>) -> Self {
        Self { connection: Connection::new(dial), ..self }
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn id(&self) -> &str {
        self.url.id()
    }

    /// Its URL, which shows itself without API keys.
    #[must_use]
    pub const fn url(&self) -> &RpcUrl {
        &self.url
    }

    /// How often it was asked since it was made, by method.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, Requests> {
        self.counts.get()
    }

    /// Sends one request. A connection that is dead or silent is dropped, so that the next request makes a new one.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn request<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl Serialize,
    ) -> Result<R, RpcError> {
        let (id, text) = self.next_request(method, params)?;
        let result = self.exchange(method, async |transport| transport.ask(id, text).await).await?;
        self.counts.received(method, result.get().len());
        decode(method, &result)
    }

    /// Subscribes to the events of a contract: the channel changes with each. Over a WebSocket alone.
    pub(crate) async fn subscribe(&self, contract: Address) -> Result<watch::Receiver<()>, RpcError> {
        let (id, text) = self.next_request(SUBSCRIBE, ("logs", json!({ "address": contract })))?;
        self.exchange(SUBSCRIBE, async |transport| transport.subscribe(id, text).await).await
    }

    fn next_request(&self, method: &'static str, params: impl Serialize) -> Result<(u64, String), RpcError> {
        if let Some((left, message)) = self.rest().left() {
            return Err(RpcError::Busy { method, left, message });
        }
        self.counts.asked(method);
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let text = json_rpc::request(id, method, params);
        Ok((id, text.map_err(|error| RpcError::invalid_response(method, &format!("cannot be asked: {error}")))?))
    }

    /// Connecting, asking and answering together have the source's patience.
    async fn exchange<R>(
        &self,
        method: &'static str,
        ask: impl AsyncFnOnce(Transport) -> Result<R, Failure>,
    ) -> Result<R, RpcError> {
        let mut used = None;
        let exchange = async {
            let live = used.insert(self.connection.get(&self.url).await.map_err(Failure::Transport)?);
            ask(live.transport.clone()).await
        };
        let outcome = timeout(self.patience, exchange).await;
        let is_dead = matches!(outcome, Err(_) | Ok(Err(Failure::Transport(_))));
        if let Some(live) = used.filter(|_| is_dead) {
            self.connection.discard(&live);
        }
        if is_dead {
            self.counts.failed(method);
        }
        self.rest().note(&outcome, &self.url);
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Busy { reason, .. })) => {
                let left = self.rest().left().map_or(Duration::ZERO, |(left, _)| left);
                Err(RpcError::Busy { method, left, message: EndpointMessage::new(&self.url, &reason) })
            }
            Ok(Err(Failure::Refused(error))) => {
                let message = EndpointMessage::new(&self.url, &error.message);
                Err(RpcError::Refused { method, message, revert: error.revert_data() })
            }
            Ok(Err(Failure::Transport(reason))) => {
                Err(RpcError::Transport { method, reason: EndpointMessage::new(&self.url, &reason) })
            }
            Err(_) => Err(RpcError::Timeout { method, patience: self.patience }),
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the current connection: the next request makes a new one.
    pub(crate) fn disconnect(&self) {
        self.connection.disconnect();
    }

    /// The newest block.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn head(&self) -> Result<Header, RpcError> {
        self.header(At::Latest).await?.ok_or_else(|| RpcError::invalid_response(BLOCK, "no latest block"))
    }

    /// The contract's epoch at the newest block, as a hint.
    pub(crate) async fn epoch(&self, contract: Address) -> Result<u64, RpcError> {
        self.call_at(contract, At::Latest, contract::epochCall {}).await
    }

    /// The same with the hash of its history, from the word that has both.
    pub(crate) async fn history(&self, contract: Address) -> Result<Reached, RpcError> {
        // Some endpoints leave out leading zeros.
        let word: U256 = self.request("eth_getStorageAt", (contract, proven::TOTALS, At::Latest)).await?;
        let History { epoch, hash } = proven::history_of(word);
        Ok(Reached { epoch, history: Some(hash) })
    }

    /// A block of the canonical chain by height.
    pub(crate) async fn header_at(&self, number: u64) -> Result<Option<Header>, RpcError> {
        match self.header(At::Number(number)).await? {
            Some(header) if header.number != number => {
                Err(RpcError::invalid_response(BLOCK, "another block than asked for"))
            }
            header => Ok(header),
        }
    }

    /// Height of the latest finalized block, as it was at most [`FINALIZED_FOR`] ago; `None` where the chain or the endpoint has
    /// no such notion, or keeps silent when asked. Silence costs a read little, and not its connection.
    pub(crate) async fn finalized(&self) -> Option<u64> {
        let mut known = self.finalized.lock().await;
        let (asked_at, number) = *known;
        if asked_at.is_some_and(|at| at.elapsed() < FINALIZED_FOR) {
            return number;
        }
        // A caller that drops this future has still asked.
        known.0 = Some(Instant::now());
        let Ok((id, text)) = self.next_request(BLOCK, ("finalized", false)) else { return known.1 };
        let ask = async {
            let live = self.connection.get(&self.url).await.map_err(Failure::Transport)?;
            live.transport.ask(id, text).await
        };
        let answer = timeout(FINALIZED_TIMEOUT, ask).await;
        self.rest().note(&answer, &self.url);
        if matches!(answer, Err(_) | Ok(Err(Failure::Transport(_)))) {
            self.counts.failed(BLOCK);
        }
        if let Ok(Ok(answer)) = &answer {
            self.counts.received(BLOCK, answer.get().len());
        }
        if let Ok(answer) = answer {
            let header = answer.ok().and_then(|answer| decode::<Option<Header>>(BLOCK, &answer).ok()).flatten();
            known.1 = header.map(|header| header.number);
        }
        known.1
    }

    async fn header(&self, block: At) -> Result<Option<Header>, RpcError> {
        self.request(BLOCK, (block, false)).await
    }

    /// EIP-155 chain id.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: U64 = self.request("eth_chainId", NO_PARAMETERS).await?;
        Ok(id.to())
    }

    /// Asks for the chain id where one is wanted, and fails where it is another.
    pub(crate) async fn must_be_of(&self, wanted: Option<u64>) -> Result<(), RpcError> {
        let Some(wanted) = wanted else { return Ok(()) };
        match self.chain_id().await? {
            found if found == wanted => Ok(()),
            found => Err(RpcError::wrong_chain(found, wanted)),
        }
    }

    /// Whether there is a contract at an address, at the newest block.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn has_code(&self, contract: Address) -> Result<bool, RpcError> {
        let code: Bytes = self.request("eth_getCode", (contract, At::Latest)).await?;
        Ok(!code.is_empty())
    }

    /// The code of an account in one block, as the endpoint says.
    pub(crate) async fn code(&self, account: Address, block: B256) -> Result<Bytes, RpcError> {
        self.request("eth_getCode", (account, At::Hash(block))).await
    }

    /// An account and words of its storage in one block, each with what should prove it.
    pub(crate) async fn proof(&self, account: Address, slots: &[B256], block: B256) -> Result<AccountProof, RpcError> {
        self.request(PROOF, (account, slots, At::Hash(block))).await
    }

    /// What an account has at the newest block, wei.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn balance(&self, account: Address) -> Result<U256, RpcError> {
        self.request("eth_getBalance", (account, At::Latest)).await
    }

    /// An account's next nonce.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn nonce(&self, account: Address, at: At) -> Result<u64, RpcError> {
        let nonce: U64 = self.request("eth_getTransactionCount", (account, at)).await?;
        Ok(nonce.to())
    }

    /// The usual price of a unit of gas, wei.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn gas_price(&self) -> Result<U256, RpcError> {
        self.request("eth_gasPrice", NO_PARAMETERS).await
    }

    /// The gas that a call takes at the newest block.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn estimate_gas(&self, call: &CallRequest, assuming: &StateOverride) -> Result<u64, RpcError> {
        const METHOD: &str = "eth_estimateGas";
        // Not every endpoint takes an empty set of them.
        let gas: U64 = if assuming.is_empty() {
            self.request(METHOD, (call, At::Latest)).await?
        } else {
            self.request(METHOD, (call, At::Latest, assuming)).await?
        };
        Ok(gas.to())
    }

    /// Tries a call; its output.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn try_call(&self, call: &CallRequest, at: At, assuming: &StateOverride) -> Result<Bytes, RpcError> {
        if assuming.is_empty() {
            self.request(CALL, (call, at)).await
        } else {
            self.request(CALL, (call, at, assuming)).await
        }
    }

    /// Calls a view of a contract in the state of one block.
    pub(crate) async fn call<C: SolCall + Send + Sync>(
        &self,
        contract: Address,
        block: B256,
        call: C,
    ) -> Result<C::Return, RpcError> {
        self.call_at(contract, At::Hash(block), call).await
    }

    async fn call_at<C: SolCall + Send + Sync>(
        &self,
        contract: Address,
        at: At,
        call: C,
    ) -> Result<C::Return, RpcError> {
        let call = CallRequest { to: Some(contract), data: call.abi_encode().into(), ..CallRequest::default() };
        let answer = self.try_call(&call, at, &StateOverride::new()).await?;
        decode_output::<C>(&answer).ok_or_else(|| {
            RpcError::invalid_response(CALL, &format!("the answer does not decode as that of {}", C::SIGNATURE))
        })
    }

    /// The events of a contract with these first topics, from one block to another, both included. What the endpoint adds is left
    /// out.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn logs(&self, contract: Address, topics: &[B256], blocks: (u64, u64)) -> Result<Vec<Log>, RpcError> {
        let (first, last) = blocks;
        let filter = json!({
            "fromBlock": At::Number(first),
            "toBlock": At::Number(last),
            "address": contract,
            "topics": topics,
        });
        let mut logs: Vec<Log> = self.request(LOGS, (filter,)).await?;
        logs.retain(|log| log.address == contract && log.topics.starts_with(topics));
        Ok(logs)
    }

    /// Hands over a signed transaction. What the endpoint calls it is not asked.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn send(&self, raw: &Bytes) -> Result<(), RpcError> {
        self.request::<IgnoredAny>(SEND, (raw,)).await.map(drop)
    }

    /// What became of a transaction; `None` while it is in no block.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, RpcError> {
        self.request("eth_getTransactionReceipt", (transaction,)).await
    }
}

/// A call's output, where it is at least as long as what it decodes to: in one that overlaps itself, thousands of strings could be one
/// of a megabyte.
fn decode_output<C: SolCall>(output: &[u8]) -> Option<C::Return> {
    const WORD: usize = 32;
    let limit = AbiDecoderConfig::new().memory_limit(MAX_ANSWER);
    let words = decode_sequence_with_config::<C::ReturnToken<'_>>(output, limit).ok()?.total_words();
    // A tuple that is not of fixed length counts a word for an offset that outputs do not have.
    let offset = usize::from(<C::ReturnToken<'_> as Token>::DYNAMIC);
    if words.saturating_sub(offset).checked_mul(WORD)? > output.len() {
        return None;
    }
    C::abi_decode_returns(output).ok()
}

/// The library's error would repeat the answer.
fn decode<R: DeserializeOwned>(method: &'static str, result: &RawValue) -> Result<R, RpcError> {
    serde_json::from_str(result.get())
        .map_err(|_| RpcError::invalid_response(method, "the endpoint's answer is not what was asked for"))
}
