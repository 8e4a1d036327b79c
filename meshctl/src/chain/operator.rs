//! Transactions: what will happen is said, what the contract would refuse is not sent, what was sent is waited for.

use std::time::Duration;

use alloy::{
    eips::BlockId,
    network::{EthereumWallet, TransactionBuilder as _},
    primitives::{Address, Bytes, TxHash},
    providers::{Provider as _, ProviderBuilder},
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol_types::{SolCall, SolEvent},
};
use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::Chain;
use crate::{failure::Failure, output::Printer, settings::Settings, signer::SignerArgs};

/// How often a pending transaction is asked after.
const RECEIPT_POLL: Duration = Duration::from_millis(200);

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
    pub(crate) fn event<E: SolEvent>(&self, contract: Address) -> anyhow::Result<E> {
        let logs = self.receipt.inner.logs().iter().filter(|log| log.address() == contract);
        let mut decoded = logs.filter_map(|log| E::decode_log(&log.inner).ok());
        let event = decoded.next().map(|log| log.data);
        event.with_context(|| format!("transaction {} has no `{}` event of {contract}", self.hash, E::SIGNATURE))
    }
}
