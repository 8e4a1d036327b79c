//! The EVM node of a world, and a direct line to it.
//!
//! The line is anvil's unix socket: it crosses namespaces and answers in under a millisecond, which is how exactly the time of a
//! block is known. Agents and `meshctl` use the network instead, as they would anywhere.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use testkit::{Namespace, Process, Signal, uninterrupted, wait_until};

use crate::binaries::Binaries;

/// anvil's first development account: owns the contract and every token. The key is public knowledge.
pub const OPERATOR: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// Its private key, as every copy of anvil prints it.
pub(crate) const OPERATOR_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// Its port on the hub, which can be blocked for nodes.
pub(crate) const RPC_PORT: u16 = 8545;

/// anvil's last development account, which nothing else uses.
const FUNDER: &str = "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720";
/// How long an answer and a block may take, which take moments.
const ANSWER: Duration = Duration::from_secs(60);
/// Gas of one call of many, and so many calls fill most of a block of 30 million.
const CALL_GAS: &str = "0xf4240";
const CALLS_IN_A_BLOCK: usize = 25;

/// A running anvil.
#[derive(Debug)]
pub struct Chain {
    process: Process,
    socket: PathBuf,
    address: SocketAddr,
}

impl Chain {
    /// Starts it in `hub`, listening on `host`, and waits until it answers. A block is mined for every transaction.
    pub(crate) fn start(binaries: &Binaries, hub: &Namespace, host: IpAddr, dir: &Path) -> Result<Self> {
        let socket = dir.join("anvil.ipc");
        let address = SocketAddr::new(host, RPC_PORT);
        let (host, port) = (host.to_string(), RPC_PORT.to_string());
        let launch = hub.launch(&binaries.foundry).args(["anvil", "--host", &host, "--port", &port]);
        // The states of old blocks would fill the disk, megabytes each where there are thousands of nodes.
        let launch = launch.env("HOME", dir).args(["--max-persisted-states", "1"]);
        let launch = launch.args(["--chain-id", "31337", "--silent", "--ipc"]).arg(&socket);
        let mut chain = Self { process: launch.start(&dir.join("anvil.log"))?, socket, address };
        wait_until("anvil to answer", Duration::from_secs(60), || {
            if let Some(status) = chain.process.exited()? {
                bail!("it ended with {status}\n{}", chain.process.log_tail(20));
            }
            chain.block_number()
        })?;
        Ok(chain)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// For subscriptions.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// For polling.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One JSON-RPC call.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        let mut stream =
            UnixStream::connect(&self.socket).with_context(|| format!("connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        stream.write_all(request.to_string().as_bytes())?;
        // Answers are not framed: read until it is one whole JSON value.
        let mut text = Vec::new();
        let mut chunk = [0; 65536];
        let answer: Value = loop {
            let length =
                uninterrupted(|| stream.read(&mut chunk)).with_context(|| format!("read the answer to {method}"))?;
            if length == 0 {
                bail!("anvil closed the connection during {method}");
            }
            text.extend_from_slice(&chunk[..length]);
            match serde_json::from_slice(&text) {
                Ok(answer) => break answer,
                Err(error) if error.is_eof() => {}
                Err(error) => return Err(error).with_context(|| format!("parse the answer to {method}")),
            }
        };
        if let Some(error) = answer.get("error") {
            bail!("{method} failed: {error}");
        }
        Ok(answer["result"].clone())
    }

    /// Height of the head.
    pub fn block_number(&self) -> Result<u64> {
        quantity(&self.rpc("eth_blockNumber", json!([]))?)
    }

    /// Sends a transaction from an account that anvil holds (or impersonates), and returns when its block is there: the
    /// instant from which the limits count.
    pub fn send(&self, from: &str, to: &str, calldata: &[u8]) -> Result<Instant> {
        let data = format!("0x{}", hex::encode(calldata));
        let hash =
            self.rpc("eth_sendTransaction", json!([{"from": from, "to": to, "data": data, "gas": "0x989680"}]))?;
        let end = Instant::now() + ANSWER;
        let receipt = loop {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash]))?;
            if !receipt.is_null() {
                break receipt;
            }
            if Instant::now() > end {
                bail!("transaction {hash} was not mined within {ANSWER:?}");
            }
        };
        let mined = Instant::now();
        if receipt["status"] != "0x1" {
            let replay = self.rpc("eth_call", json!([{"from": from, "to": to, "data": data}, "latest"]));
            bail!("transaction {hash} reverted: {}", replay.err().map_or_else(String::new, |e| e.to_string()));
        }
        Ok(mined)
    }

    /// Sends these transactions in blocks of many each: a chain of thousands of blocks is slow to make.
    pub fn send_all(&self, from: &str, to: &str, calls: &[Vec<u8>]) -> Result<()> {
        self.rpc("evm_setAutomine", json!([false]))?;
        for calls in calls.chunks(CALLS_IN_A_BLOCK) {
            let hashes: Vec<Value> = calls
                .iter()
                .map(|call| {
                    let data = format!("0x{}", hex::encode(call));
                    self.rpc("eth_sendTransaction", json!([{"from": from, "to": to, "data": data, "gas": CALL_GAS}]))
                })
                .collect::<Result<_>>()?;
            self.mine(1)?;
            for hash in hashes {
                let receipt = self.rpc("eth_getTransactionReceipt", json!([hash]))?;
                ensure!(receipt["status"] == "0x1", "transaction {hash} of many: {receipt}");
            }
        }
        self.rpc("evm_setAutomine", json!([true])).map(drop)
    }

    /// Transactions sent by an address.
    pub fn transaction_count(&self, address: &str) -> Result<u64> {
        quantity(&self.rpc("eth_getTransactionCount", json!([address, "latest"]))?)
    }

    /// Gives an address one ether more, so that a node can pay for its own registration. By a transaction: what anvil is told to set is
    /// in no block, and its proofs do not lead to the root of the block before.
    pub fn fund(&self, address: &str) -> Result<()> {
        let transfer = json!([{"from": FUNDER, "to": address, "value": "0xde0b6b3a7640000"}]);
        let hash = self.rpc("eth_sendTransaction", transfer)?;
        wait_until("the transfer to be mined", ANSWER, || {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash]))?;
            (!receipt.is_null()).then_some(()).with_context(|| format!("{hash} is in no block"))
        })?;
        Ok(())
    }

    /// Mines empty blocks.
    pub fn mine(&self, blocks: u64) -> Result<()> {
        self.rpc("anvil_mine", json!([format!("{blocks:#x}")])).map(drop)
    }

    /// Mines a block every second from now on, and none for a transaction: as real chains do.
    pub fn mine_every_second(&self) -> Result<()> {
        self.rpc("evm_setIntervalMining", json!([1])).map(drop)
    }

    /// Replaces the last blocks by as many empty ones: a reorganisation that takes their transactions back for good.
    pub fn reorg(&self, depth: u64) -> Result<Instant> {
        self.rpc("anvil_reorg", json!([depth, []]))?;
        Ok(Instant::now())
    }

    /// Freezes the node as it is: connections open and nothing answers.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// Lets it go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal(Signal::Continue)
    }
}

fn quantity(value: &Value) -> Result<u64> {
    let text = value.as_str().with_context(|| format!("`{value}` is not a quantity"))?;
    u64::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| format!("`{text}` is not a quantity"))
}
