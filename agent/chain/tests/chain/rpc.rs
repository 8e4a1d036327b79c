//! A JSON-RPC endpoint in this process that can be made to misbehave.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse as _, Redirect},
    routing::post,
};
use futures_util::{StreamExt as _, stream};
use mesh_chain::Source;
use mesh_contract::{DstackClusterNFT as contract, IDstackClusterNFT as abi};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::network::{Network, network};

pub(crate) const CONTRACT: Address = Address::repeat_byte(0xc0);
pub(crate) const INSTANCE: [u8; 20] = [0x33; 20];
/// Of every endpoint.
const URL: &str = "http://rpc.test/v3/s3cretkey";

/// Of a [`Manner::Stalls`] endpoint, bytes.
pub(crate) const PIECE: usize = 64 << 10;
const STALLS_AFTER: usize = 4 << 20;

/// So many of the newest blocks, and of the first, have their state there.
const MOST_BLOCKS: u64 = 200;

/// Of a [`Manner::Slow`] endpoint.
const LATENCY: Duration = Duration::from_millis(400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Accepts requests and never answers.
    Hang,
    /// Says where its head is, and never answers a call.
    HangCalls,
    /// Each answer takes twice as long as a read waits for it once enough others have answered.
    Slow,
    Html,
    /// An answer of 20 MiB.
    Huge,
    /// `peers()` never ends.
    EndlessPages,
    /// Answers every question about a block with another one.
    OtherBlock,
    /// The first answer to `epoch()` is of the block that follows.
    MixesBlocks,
    NoCode,
    /// Refuses everything, repeating the API key it was asked with.
    Echo,
    /// Refuses everything, with text that would forge a line of a log, act on a terminal and fill a disk.
    Hostile,
    /// Never answers when asked for the finalized block.
    HangFinalized,
    /// Each answer is 4 MiB long, and then goes on without coming.
    Stalls,
    /// Answers every request as if it were another one.
    Replays,
    /// Sends every request to another URL.
    Redirects,
    /// There are so many base domains, and all are the same long text, written once.
    Overlaps(usize),
    /// Makes up a nonce, a price and the hash of what is sent.
    MadeUp,
}

pub(crate) struct Chain {
    pub(crate) manner: Manner,
    /// How long an answer takes.
    pub(crate) latency: Duration,
    /// It refuses everything.
    pub(crate) is_down: bool,
    /// It says 429 until then, and asks to wait.
    pub(crate) busy_until: Option<Instant>,
    pub(crate) chain_id: u64,
    pub(crate) head: u64,
    /// Blocks above this height have other hashes on each fork.
    pub(crate) fork_at: u64,
    pub(crate) fork: u8,
    pub(crate) epoch: u64,
    pub(crate) peers: Vec<abi::Peer>,
    pub(crate) dev_mode: bool,
    /// What `getPeerEndpoints()` says.
    pub(crate) endpoints: Vec<String>,
    pub(crate) nodes: Vec<abi::Node>,
    /// Term, leader's token, and its node address.
    pub(crate) seat: (u32, U256, Address),
    /// What its contract says to every ERC-165 identifier.
    pub(crate) supports: bool,
    pub(crate) logs: Vec<Value>,
    /// Raw transactions.
    pub(crate) sent: Vec<Bytes>,
    pub(crate) asked: BTreeMap<String, u32>,
    /// The block of every transaction.
    pub(crate) mined_at: Option<u64>,
    /// No account has any funds.
    pub(crate) is_poor: bool,
    /// What a transaction would revert with.
    pub(crate) reverts: Option<Bytes>,
}

#[derive(Clone)]
pub(crate) struct Rpc {
    chain: Arc<Mutex<Chain>>,
    network: Network,
}

pub(crate) fn peer(token: u64) -> abi::Peer {
    abi::Peer {
        tokenId: U256::from(token),
        instanceId: FixedBytes([u8::try_from(token % 251).unwrap() + 1; 20]),
        memberAddress: Address::repeat_byte(1),
        wireguardKey: B256::from(U256::from(token)),
        tlsKey: B256::ZERO,
        keyEpoch: 1,
        endpointEpoch: 0,
        networkType: 1,
        endpointAddress: FixedBytes::ZERO,
        endpointPort: 0,
        gatewayDomain: 0,
        gatewayPort: 0,
        kmsRoot: Address::repeat_byte(2),
        appId: CONTRACT,
        registeredBlock: 5,
    }
}

pub(crate) fn node(token: u64, instance: [u8; 20]) -> abi::Node {
    abi::Node {
        tokenId: U256::from(token),
        owner: Address::repeat_byte(3),
        instanceId: FixedBytes(instance),
        memberAddress: Address::ZERO,
        boundAppId: Address::ZERO,
        keyEpoch: 0,
        endpointEpoch: 0,
        active: false,
        revoked: false,
    }
}

/// See [`Manner::Hostile`].
pub(crate) fn hostile_text() -> String {
    let line =
        "busy\r\n2026-01-01T00:00:00.000000Z  INFO p2p_agent: ready\x1b[2J\u{9b}1m\u{202e}\u{2028}\u{200b}\u{e0041}\0";
    line.repeat((1 << 20) / line.len())
}

impl Rpc {
    pub(crate) fn start() -> Self {
        let chain = Chain {
            manner: Manner::Honest,
            latency: Duration::ZERO,
            is_down: false,
            busy_until: None,
            chain_id: 31337,
            head: 100,
            fork_at: 0,
            fork: 0,
            epoch: 7,
            peers: (1..=3).map(peer).collect(),
            dev_mode: false,
            endpoints: Vec::new(),
            nodes: (1..=3).map(|token| node(token, if token == 2 { INSTANCE } else { [9; 20] })).collect(),
            seat: (5, U256::from(2), Address::repeat_byte(0x22)),
            supports: true,
            logs: Vec::new(),
            sent: Vec::new(),
            asked: BTreeMap::new(),
            mined_at: None,
            is_poor: false,
            reverts: None,
        };
        let chain = Arc::new(Mutex::new(chain));
        let (network, incoming) = network();
        let router = Router::new().route("/v3/s3cretkey", post(answer)).with_state(Arc::clone(&chain));
        tokio::spawn(async move { axum::serve(incoming, router).await });
        Self { chain, network }
    }

    /// The client's side of it, not connected yet.
    pub(crate) fn source(&self) -> Arc<Source> {
        Arc::new(Source::new(URL.parse().unwrap()).with_dial(Arc::new(self.network.clone())))
    }

    pub(crate) fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap()
    }

    pub(crate) fn asked(&self, what: &str) -> u32 {
        self.chain().asked.get(what).copied().unwrap_or(0)
    }
}

async fn answer(State(chain): State<Arc<Mutex<Chain>>>, Json(request): Json<Value>) -> axum::response::Response {
    let (manner, latency, busy_until) = {
        let chain = chain.lock().unwrap();
        (chain.manner, chain.latency, chain.busy_until)
    };
    tokio::time::sleep(latency).await;
    if let Some(left) = busy_until.and_then(|until| until.checked_duration_since(Instant::now())) {
        *chain.lock().unwrap().asked.entry("refused".to_owned()).or_default() += 1;
        let wait = (left.as_secs() + 1).to_string();
        return (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, wait)], "slow down").into_response();
    }
    match manner {
        Manner::Hang => std::future::pending().await,
        Manner::HangCalls if request["method"] == "eth_call" => std::future::pending().await,
        Manner::Slow => tokio::time::sleep(LATENCY).await,
        Manner::Html => return "<html>busy</html>".into_response(),
        Manner::Huge => return "x".repeat(20 << 20).into_response(),
        Manner::Echo => {
            let words = "Project ID S3CRETKEY exceeded its limit; see /v3 or ask s3cre..., apiKey=s3cretkey";
            let error = json!({ "code": -32005, "message": words });
            return Json(json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })).into_response();
        }
        Manner::Hostile => {
            let error = json!({ "code": -32005, "message": hostile_text() });
            return Json(json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })).into_response();
        }
        Manner::Stalls => {
            let pieces = (0..STALLS_AFTER / PIECE).map(move |_| {
                *chain.lock().unwrap().asked.entry("pieces".to_owned()).or_default() += 1;
                Ok::<_, Infallible>(vec![b' '; PIECE])
            });
            return Body::from_stream(stream::iter(pieces).chain(stream::pending())).into_response();
        }
        Manner::Replays => {
            let id = request["id"].as_u64().unwrap() - 1;
            let header = chain.lock().unwrap().header(5);
            return Json(json!({ "jsonrpc": "2.0", "id": id, "result": header })).into_response();
        }
        Manner::Redirects => {
            *chain.lock().unwrap().asked.entry("redirected".to_owned()).or_default() += 1;
            return Redirect::temporary("/v3/s3cretkey").into_response();
        }
        Manner::HangFinalized if request["params"][0] == "finalized" => std::future::pending().await,
        Manner::Honest
        | Manner::EndlessPages
        | Manner::OtherBlock
        | Manner::MixesBlocks
        | Manner::NoCode
        | Manner::HangCalls
        | Manner::HangFinalized
        | Manner::Overlaps(_)
        | Manner::MadeUp => {}
    }
    let mut chain = chain.lock().unwrap();
    let method = request["method"].as_str().unwrap().to_owned();
    *chain.asked.entry(method.clone()).or_default() += 1;
    // A transaction that is tried, unlike a question, is not about a block that was named; the epoch may be asked for as a hint.
    let is_hint = request["params"][0]["data"] == json!(Bytes::from(contract::epochCall {}.abi_encode()));
    let is_trial = method == "eth_call" && request["params"][1] == "latest" && !is_hint;
    if is_trial {
        let result = match &chain.reverts {
            Some(data) => ("error", json!({ "code": 3, "message": "execution reverted", "data": data })),
            None => ("result", json!("0x")),
        };
        return Json(json!({ "jsonrpc": "2.0", "id": request["id"], result.0: result.1 })).into_response();
    }
    let outcome = chain.handle(&method, &request["params"]);
    let (key, value) = match outcome {
        Ok(result) => ("result", result),
        Err(message) => ("error", json!({ "code": -32000, "message": message })),
    };
    Json(json!({ "jsonrpc": "2.0", "id": request["id"], key: value })).into_response()
}

impl Chain {
    pub(crate) fn hash(&self, number: u64) -> B256 {
        let fork = if number > self.fork_at { self.fork } else { 0 };
        keccak256([&number.to_be_bytes()[..], &[fork]].concat())
    }

    pub(crate) fn header(&self, number: u64) -> Value {
        let named = if self.manner == Manner::OtherBlock { number / 2 } else { number };
        json!({ "number": format!("{named:#x}"), "hash": self.hash(number), "timestamp": "0x1", "extra": [] })
    }

    pub(crate) fn handle(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        match method {
            _ if self.is_down => Err("down".to_owned()),
            "eth_chainId" => Ok(json!(format!("{:#x}", self.chain_id))),
            "eth_getCode" => Ok(json!(if self.manner == Manner::NoCode { "0x" } else { "0x60" })),
            "eth_getBlockByNumber" => Ok(match params[0].as_str().unwrap() {
                "latest" => self.header(self.head),
                "finalized" => self.header(self.head - 64),
                number => {
                    let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap();
                    if number <= self.head { self.header(number) } else { Value::Null }
                }
            }),
            "eth_call" => self.call(params).map(|data| json!(data)),
            "eth_getBalance" => Ok(json!(if self.is_poor { "0x0" } else { "0xde0b6b3a7640000" })),
            "eth_getTransactionCount" => Ok(json!(if self.manner == Manner::MadeUp { "0xffff" } else { "0x7" })),
            "eth_gasPrice" => Ok(json!(if self.manner == Manner::MadeUp { "0x4000000000" } else { "0x3b9aca00" })),
            "eth_estimateGas" => Ok(json!("0x30000")),
            // What it calls the transaction is worth nothing.
            "eth_sendRawTransaction" => {
                self.sent.push(serde_json::from_value(params[0].clone()).unwrap());
                Ok(json!(B256::repeat_byte(0x11)))
            }
            "eth_getTransactionReceipt" => Ok(self.mined_at.map_or(
                Value::Null,
                |block| json!({ "transactionHash": params[0], "blockNumber": format!("{block:#x}"), "status": "0x1" }),
            )),
            "eth_getLogs" => {
                let filter = &params[0];
                assert_eq!(filter["fromBlock"], filter["toBlock"], "a range of blocks was asked for");
                Ok(json!(self.logs))
            }
            other => Err(format!("no such method: {other}")),
        }
    }

    fn call(&mut self, params: &Value) -> Result<Bytes, String> {
        if params[1] != "latest" {
            let block: B256 = serde_json::from_value(params[1]["blockHash"].clone()).unwrap();
            let newest = self.head.saturating_sub(MOST_BLOCKS)..=self.head;
            if !newest.rev().chain(0..=self.head.min(MOST_BLOCKS)).any(|number| self.hash(number) == block) {
                return Err("unknown block".to_owned());
            }
        }
        if self.manner == Manner::NoCode {
            return Ok(Bytes::new());
        }
        let data: Bytes = serde_json::from_value(params[0]["data"].clone()).unwrap();
        let selector: [u8; 4] = data[..4].try_into().unwrap();
        let (name, answer) = match selector {
            contract::epochCall::SELECTOR => {
                let early = self.manner == Manner::MixesBlocks && !self.asked.contains_key("epoch");
                ("epoch", contract::epochCall::abi_encode_returns(&(self.epoch + u64::from(early))))
            }
            contract::nameCall::SELECTOR => ("name", contract::nameCall::abi_encode_returns(&"te\u{7}st".to_owned())),
            contract::meshNetworkCall::SELECTOR => {
                let network = contract::meshNetworkReturn { base: FixedBytes([10, 0, 0, 0]), prefixLength: 16 };
                ("meshNetwork", contract::meshNetworkCall::abi_encode_returns(&network))
            }
            contract::baseDomainsCall::SELECTOR => {
                let domains = vec!["gw.example".to_owned(), String::new()];
                let answer = if let Manner::Overlaps(count) = self.manner {
                    overlapping_texts(count)
                } else {
                    contract::baseDomainsCall::abi_encode_returns(&domains)
                };
                ("baseDomains", answer)
            }
            contract::devModeCall::SELECTOR => ("devMode", contract::devModeCall::abi_encode_returns(&self.dev_mode)),
            contract::getPeerEndpointsCall::SELECTOR => {
                ("getPeerEndpoints", contract::getPeerEndpointsCall::abi_encode_returns(&self.endpoints))
            }
            contract::termCall::SELECTOR => ("term", contract::termCall::abi_encode_returns(&self.seat.0)),
            contract::leaderTokenCall::SELECTOR => {
                ("leaderToken", contract::leaderTokenCall::abi_encode_returns(&self.seat.1))
            }
            contract::currentLeaderCall::SELECTOR => {
                ("currentLeader", contract::currentLeaderCall::abi_encode_returns(&self.seat.2))
            }
            contract::supportsInterfaceCall::SELECTOR => {
                ("supportsInterface", contract::supportsInterfaceCall::abi_encode_returns(&self.supports))
            }
            contract::peersCall::SELECTOR => {
                let call = contract::peersCall::abi_decode(&data).unwrap();
                ("peers", contract::peersCall::abi_encode_returns(&self.page_of_peers(&call)))
            }
            contract::nodesOfCall::SELECTOR => {
                let call = contract::nodesOfCall::abi_decode(&data).unwrap();
                let nodes = self.nodes.iter().filter(|node| node.tokenId >= call.cursor);
                let page = nodes.filter(|node| node.instanceId == call.instanceId).cloned().collect();
                let page = contract::nodesOfReturn { page, next: U256::ZERO };
                ("nodesOf", contract::nodesOfCall::abi_encode_returns(&page))
            }
            contract::getNodeCall::SELECTOR => {
                let call = contract::getNodeCall::abi_decode(&data).unwrap();
                let mut unminted = node(call.tokenId.to(), [0; 20]);
                unminted.owner = Address::ZERO;
                ("getNode", contract::getNodeCall::abi_encode_returns(&unminted))
            }
            other => panic!("call of {other:?}"),
        };
        *self.asked.entry(name.to_owned()).or_default() += 1;
        Ok(answer.into())
    }

    fn page_of_peers(&self, call: &contract::peersCall) -> contract::peersReturn {
        if self.manner == Manner::EndlessPages {
            let page = vec![peer(call.cursor.to::<u64>())];
            return contract::peersReturn { page, next: call.cursor };
        }
        let limit = call.limit.to::<usize>();
        let mut rest: Vec<_> = self.peers.iter().filter(|peer| peer.tokenId >= call.cursor).cloned().collect();
        let next = rest.get(limit).map_or(U256::ZERO, |peer| peer.tokenId);
        rest.truncate(limit);
        contract::peersReturn { page: rest, next }
    }
}

/// So many texts of 100,000 bytes in little more than one of them: each is at the same offset.
fn overlapping_texts(count: usize) -> Vec<u8> {
    const LENGTH: usize = 100_000;
    let word = |number: usize| U256::from(number).to_be_bytes::<32>();
    let offsets = [word(32 * count)].repeat(count).concat();
    [&word(32)[..], &word(count), &offsets, &word(LENGTH), &[b'a'; LENGTH]].concat()
}

/// A `PeerRegistered` log of token `token` in block 5 whose registration has this deadline.
pub(crate) fn registration_log(token: u64, deadline: u64) -> Value {
    let registration = abi::Registration {
        tokenId: U256::from(token),
        instanceId: FixedBytes(INSTANCE),
        memberAddress: Address::repeat_byte(1),
        wireguardKey: B256::repeat_byte(4),
        tlsKey: B256::ZERO,
        keyEpoch: 1,
        networkType: 1,
        endpointAddress: FixedBytes::ZERO,
        endpointPort: 0,
        gatewayDomain: B256::ZERO,
        gatewayPort: 0,
        deadline,
    };
    let chain = abi::SignatureChain {
        nodeKeyX: B256::repeat_byte(5),
        nodeKeyY: B256::repeat_byte(6),
        appKeyX: B256::repeat_byte(7),
        appKeyY: B256::repeat_byte(8),
        appSignature: Bytes::from(vec![1; 65]),
        kmsSignature: Bytes::from(vec![2; 65]),
        appId: CONTRACT,
    };
    let event = contract::PeerRegistered {
        tokenId: U256::from(token),
        registration,
        chain,
        nodeSignature: Bytes::from(vec![3; 65]),
        memberSignature: Bytes::from(vec![4; 65]),
        nodeAddress: Address::repeat_byte(1),
        kmsRoot: Address::repeat_byte(2),
        epoch: 7,
    };
    let data = event.encode_log_data();
    json!({ "address": CONTRACT, "topics": data.topics(), "data": data.data, "blockNumber": "0x5", "removed": false })
}
