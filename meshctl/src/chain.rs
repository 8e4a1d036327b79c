//! The chain behind one JSON-RPC endpoint: reads at a block, and transactions that are waited for.

use std::{fmt, future::Future, time::Duration};

use alloy::{
    eips::BlockId,
    network::{EthereumWallet, TransactionBuilder as _},
    primitives::{Address, B256, Bytes, TxHash},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol_types::SolCall,
    transports::{RpcError, TransportError},
};
use anyhow::Context as _;
use mesh_contract::explain_revert;
use tokio::time::{Instant, sleep, timeout};

use crate::{failure::Failure, output::Printer, settings::Settings, signer::SignerArgs};

/// One request to the endpoint takes at most this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How often a pending transaction is asked after.
const RECEIPT_POLL: Duration = Duration::from_millis(200);

/// A connected endpoint.
pub(crate) struct Chain {
    provider: DynProvider,
    url: Url,
    /// EIP-155 chain id.
    pub(crate) id: u64,
}

/// The block that a command's reads are pinned to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: B256,
}

impl Chain {
    /// Connects for reading.
    pub(crate) async fn connect(settings: &Settings) -> anyhow::Result<Self> {
        Self::open(settings, |url| async move { Ok(ProviderBuilder::new().connect(&url).await?.erased()) }).await
    }

    async fn open<F, P>(settings: &Settings, connect: F) -> anyhow::Result<Self>
    where
        F: FnOnce(String) -> P,
        P: Future<Output = Result<DynProvider, TransportError>>,
    {
        let url = Url::parse(settings.rpc_url()?)?;
        let shown = url.to_string();
        let unreachable = || {
            Failure::new(format!("no JSON-RPC answer from {shown}"))
                .hint("check `--rpc-url`, and that the node is running")
        };
        let provider = match timeout(ANSWER_WITHIN, connect(url.full.clone())).await {
            Ok(Ok(provider)) => provider,
            Ok(Err(error)) => return Err(url.scrub(&error).context(unreachable())),
            Err(_) => return Err(unreachable().into()),
        };
        let mut chain = Self { provider, url, id: 0 };
        let answer = chain.ask(chain.provider.get_chain_id()).await;
        chain.id = answer.map_err(|error| chain.plain(error).context(unreachable()))?;
        Ok(chain)
    }

    /// The newest block.
    pub(crate) async fn head(&self) -> anyhow::Result<Block> {
        let block = self.ask(self.provider.get_block(BlockId::latest())).await;
        let block = block.map_err(|error| self.plain(error).context("cannot read the newest block"))?;
        let header = block.with_context(|| format!("{} has no newest block", self.url))?.header;
        Ok(Block { number: header.number, hash: header.hash })
    }

    /// Calls a view function of `contract`, at a block or at the newest one.
    pub(crate) async fn read<C: SolCall>(
        &self,
        contract: Address,
        call: C,
        at: Option<Block>,
    ) -> anyhow::Result<C::Return> {
        let what = || format!("cannot read `{}` of contract {contract}", C::SIGNATURE);
        let request = TransactionRequest::default().with_to(contract).with_input(call.abi_encode());
        let block = at.map_or_else(BlockId::latest, |block| BlockId::hash(block.hash));
        let answer = self.ask(self.provider.call(request).block(block)).await;
        let output = answer.map_err(|error| self.explain(error).context(what()))?;
        if output.is_empty() {
            self.require_code(contract).await?;
        }
        C::abi_decode_returns(&output).map_err(|_| {
            Failure::new(format!("contract {contract} on chain {} is not a DstackClusterNFT", self.id))
                .hint("check `--contract` and `--rpc-url`")
                .into()
        })
    }

    /// Fails, with the likely reasons, when nothing is deployed at `contract`.
    pub(crate) async fn require_code(&self, contract: Address) -> anyhow::Result<()> {
        let code = self.ask(self.provider.get_code_at(contract)).await;
        let code = code.map_err(|error| self.plain(error).context(format!("cannot look for contract {contract}")))?;
        if code.is_empty() {
            return Err(Failure::new(format!("there is no contract at {contract} on chain {}", self.id))
                .hint("check `--contract`, and that `--rpc-url` leads to the right chain")
                .into());
        }
        Ok(())
    }

    /// Waits at most [`ANSWER_WITHIN`].
    async fn ask<T>(&self, call: impl IntoFuture<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
        let late = |_| RpcError::local_usage_str(&format!("no answer within {}s", ANSWER_WITHIN.as_secs()));
        timeout(ANSWER_WITHIN, call.into_future()).await.map_err(late)?
    }

    fn plain(&self, error: TransportError) -> anyhow::Error {
        self.url.scrub(&error)
    }

    /// What a failed call means: the contract's own reason when it reverted.
    fn explain(&self, error: TransportError) -> anyhow::Error {
        let response = error.as_error_resp();
        match response.and_then(|response| response.as_revert_data()) {
            Some(data) => revert(&data),
            None => match response {
                Some(response) => anyhow::anyhow!("{}", self.url.scrub_text(&response.message)),
                None => self.plain(error),
            },
        }
    }
}

/// The contract's refusal in words. The explanation's hint comes after a semicolon.
fn revert(data: &[u8]) -> anyhow::Error {
    match explain_revert(data) {
        Some(explanation) => match explanation.split_once("; ") {
            Some((reason, hint)) => Failure::new(format!("the contract refused: {reason}")).hint(hint).into(),
            None => anyhow::anyhow!("the contract refused: {explanation}"),
        },
        None if data.is_empty() => anyhow::anyhow!("the contract refused without a reason"),
        None => anyhow::anyhow!("the contract refused with unknown error data 0x{}", hex::encode(data)),
    }
}

/// A connected endpoint and a key that pays.
pub(crate) struct Operator {
    pub(crate) chain: Chain,
    /// The key's address.
    pub(crate) address: Address,
    receipt_timeout: Duration,
}

/// A transaction that is in a block and succeeded.
pub(crate) struct Done {
    pub(crate) hash: TxHash,
    pub(crate) receipt: TransactionReceipt,
}

impl Operator {
    /// Reads the key, then connects.
    pub(crate) async fn connect(settings: &Settings, key: &SignerArgs) -> anyhow::Result<Self> {
        settings.rpc_url()?;
        let signer = key.signer()?;
        let address = signer.address();
        let wallet = EthereumWallet::from(signer);
        let connect =
            |url: String| async move { Ok(ProviderBuilder::new().wallet(wallet).connect(&url).await?.erased()) };
        let chain = Chain::open(settings, connect).await?;
        Ok(Self { chain, address, receipt_timeout: key.receipt_timeout() })
    }

    /// Calls a function of `contract` by a transaction. `what` completes "cannot ...".
    pub(crate) async fn call<C: SolCall>(
        &self,
        printer: &Printer,
        what: &str,
        contract: Address,
        call: C,
    ) -> anyhow::Result<Done> {
        self.submit(printer, what, contract, call.abi_encode().into()).await
    }

    /// Like [`Self::call`], with call data that somebody else encoded.
    pub(crate) async fn submit(
        &self,
        printer: &Printer,
        what: &str,
        contract: Address,
        data: Bytes,
    ) -> anyhow::Result<Done> {
        self.chain.require_code(contract).await?;
        self.send(printer, what, Some(contract), data).await
    }

    /// Sends a transaction and waits for its block. `to` is none for a contract creation.
    pub(crate) async fn send(
        &self,
        printer: &Printer,
        what: &str,
        to: Option<Address>,
        data: Bytes,
    ) -> anyhow::Result<Done> {
        let chain = &self.chain;
        let failed = || format!("cannot {what}");
        let target = to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
        printer.note(format!("{what}: {} sends to {target} on chain {}", self.address, chain.id));

        let mut request = TransactionRequest::default().with_from(self.address).with_input(data);
        request = match to {
            Some(to) => request.with_to(to),
            None => request.into_create(),
        };
        // Estimating runs the call: what the contract would refuse costs nothing.
        let gas = chain.ask(chain.provider.estimate_gas(request.clone())).await;
        let gas = gas.map_err(|error| self.hinted(chain.explain(error)).context(failed()))?;
        // The state may move before the block: a fifth more than the estimate.
        let request = request.with_gas_limit(gas.saturating_add(gas / 5));
        let sent = chain.ask(chain.provider.send_transaction(request.clone())).await;
        let hash = *sent.map_err(|error| self.hinted(chain.explain(error)).context(failed()))?.tx_hash();
        printer.note(format!("{what}: sent transaction {hash}, waiting for its block"));

        let receipt = self.receipt(hash).await.with_context(failed)?;
        if !receipt.status() {
            let block = receipt.block_number.map_or_else(BlockId::latest, BlockId::number);
            let replay = chain.ask(chain.provider.call(request).block(block)).await;
            let reason = replay.err().map_or_else(|| anyhow::anyhow!("reason unknown"), |error| chain.explain(error));
            return Err(reason.context(format!("transaction {hash} was reverted")).context(failed()));
        }
        Ok(Done { hash, receipt })
    }

    async fn receipt(&self, hash: TxHash) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + self.receipt_timeout;
        let mut trouble = None;
        while Instant::now() < deadline {
            match self.chain.ask(self.chain.provider.get_transaction_receipt(hash)).await {
                Ok(Some(receipt)) => return Ok(receipt),
                Ok(None) => trouble = None,
                Err(error) => trouble = Some(self.chain.plain(error)),
            }
            sleep(RECEIPT_POLL).await;
        }
        let failure = Failure::new(format!("transaction {hash} is in no block after {:?}", self.receipt_timeout))
            .hint("it may still get into one: look it up before sending again");
        Err(match trouble {
            Some(error) => error.context(failure),
            None => failure.into(),
        })
    }

    /// Adds the usual next step to what nodes say in their own words.
    fn hinted(&self, error: anyhow::Error) -> anyhow::Error {
        let text = error.to_string().to_lowercase();
        if text.contains("insufficient funds") {
            return error.context(
                Failure::new(format!("{} cannot pay for gas on chain {}", self.address, self.chain.id))
                    .hint("send it funds, or use another key"),
            );
        }
        error
    }
}

impl Done {
    /// The new contract of a creation.
    pub(crate) fn created(&self) -> anyhow::Result<Address> {
        self.receipt.contract_address.with_context(|| format!("the receipt of {} names no contract", self.hash))
    }

    /// The first log of `contract` that decodes as `E`.
    pub(crate) fn event<E: alloy::sol_types::SolEvent>(&self, contract: Address) -> anyhow::Result<E> {
        let logs = self.receipt.inner.logs().iter().filter(|log| log.address() == contract);
        let mut decoded = logs.filter_map(|log| E::decode_log(&log.inner).ok());
        let event = decoded.next().map(|log| log.data);
        event.with_context(|| format!("transaction {} has no `{}` event of {contract}", self.hash, E::SIGNATURE))
    }
}

/// An endpoint's URL. Only scheme, host and port are ever printed: paths, queries and user names hold API keys.
struct Url {
    full: String,
    shown: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("the RPC endpoint {why}"))
                .hint("it looks like http://127.0.0.1:8545 or wss://host/key")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is not a URL"))?;
        if !["http", "https", "ws", "wss"].contains(&scheme) {
            return Err(wrong("is neither http(s) nor ws(s)"));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self { full: text.to_owned(), shown: format!("{scheme}://{host}") })
    }

    /// An error's text without what may be secret in the URL.
    fn scrub(&self, error: &TransportError) -> anyhow::Error {
        anyhow::anyhow!("{}", self.scrub_text(&causes(error)))
    }

    fn scrub_text(&self, text: &str) -> String {
        // Libraries print URLs in their normal form, with a slash after the host.
        let mut text = text.replace(&self.full, &self.shown);
        if let Some((_, rest)) = self.full.split_once("://") {
            for part in rest.split(['/', '?', '#', '@', '&', '=', ':']).filter(|part| part.len() >= 8) {
                if !self.shown.contains(part) {
                    text = text.replace(part, "[redacted]");
                }
            }
        }
        text
    }
}

/// An error and what caused it, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The address that `DstackKms.kmsInfo` gives as its key: the KMS root.
pub(crate) fn address_of_compressed_key(key: &[u8]) -> anyhow::Result<Address> {
    let key = k256::PublicKey::from_sec1_bytes(key).context("not a secp256k1 public key")?;
    let point = k256::elliptic_curve::sec1::ToEncodedPoint::to_encoded_point(&key, false);
    Ok(Address::from_raw_public_key(&point.as_bytes()[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (full, shown) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://user:pass@rpc.example/v3/0123456789abcdef", "https://rpc.example"),
            ("wss://rpc.example:443?key=s3cr3ts3cr3t", "wss://rpc.example:443"),
        ] {
            assert_eq!(Url::parse(full).unwrap().to_string(), shown);
        }
        for wrong in ["", "rpc.example", "ftp://rpc.example", "http://", "http:///path", "unix:///x"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_secret_part_of_a_url() {
        let url = Url::parse("https://user:hunter2hunter2@rpc.example/v3/0123456789abcdef?k=topsecret").unwrap();
        let text =
            "error sending request for url (https://rpc.example/v3/0123456789abcdef?k=topsecret), hunter2hunter2";
        let clean = url.scrub_text(text);
        assert!(clean.contains("rpc.example"), "{clean}");
        for secret in ["0123456789abcdef", "topsecret", "hunter2"] {
            assert!(!clean.contains(secret), "{clean}");
        }
    }

    #[test]
    fn a_compressed_key_gives_its_address() {
        // The generator: private key 1.
        let generator = hex::decode("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
        let address = address_of_compressed_key(&generator).unwrap();
        assert_eq!(address.to_string(), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
        assert!(address_of_compressed_key(&generator[1..]).is_err());
        assert!(address_of_compressed_key(&[2; 33]).is_ok_and(|other| other != address));
    }

    #[test]
    fn a_refusal_becomes_a_reason_and_a_hint() {
        let error = mesh_contract::DstackClusterNFT::NodeRevoked { tokenId: alloy::primitives::U256::from(7) };
        let (text, _) = crate::failure::report(&revert(&alloy::sol_types::SolError::abi_encode(&error)));
        assert!(text.starts_with("error: the contract refused: token 7 is revoked\nhint: "), "{text}");
        assert!(text.contains("meshctl reinstate 7"), "{text}");
    }

    #[test]
    fn unknown_revert_data_is_shown_as_it_is() {
        assert_eq!(revert(&[]).to_string(), "the contract refused without a reason");
        let unknown = revert(&[0xde, 0xad, 0xbe, 0xef]).to_string();
        assert_eq!(unknown, "the contract refused with unknown error data 0xdeadbeef");
    }
}
