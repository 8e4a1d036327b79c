//! Transactions: what will happen is said, what the contract would refuse is not sent, what was sent is waited for. Everything
//! that is signed is chosen here; the endpoint is asked for nonce, gas and price, and believed within bounds.

use std::time::Duration;

use alloy::{
    consensus::TxEnvelope,
    eips::{BlockId, Encodable2718 as _},
    network::{EthereumWallet, NetworkTransactionBuilder as _, TransactionBuilder as _},
    primitives::{Address, B256, Bytes, TxHash, U256},
    providers::Provider as _,
    rpc::types::{TransactionReceipt, TransactionRequest, state::StateOverride},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolCall, SolEvent},
};
use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};

use super::{
    Chain, ether,
    fees::{Fees, about},
};
use crate::{
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::{Sender, SignerArgs},
};

/// How often a pending transaction is asked after.
const RECEIPT_POLL: Duration = Duration::from_millis(200);

/// A connected endpoint, and the account that sends.
pub(crate) struct Operator {
    pub(crate) chain: Chain,
    /// The account's address.
    pub(crate) address: Address,
    /// `None` in a dry run.
    key: Option<PrivateKeySigner>,
    receipt_timeout: Duration,
    /// Wei.
    max_gas_price: u128,
}

/// What is to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Completes "cannot ...".
    pub(crate) what: String,
    /// None for a contract creation.
    pub(crate) to: Option<Address>,
    pub(crate) data: Bytes,
    /// Wei.
    pub(crate) value: U256,
    /// Gas that it gets at least.
    pub(crate) least_gas: u64,
}

/// A transaction that is in a block and succeeded.
pub(crate) struct Done {
    pub(crate) hash: TxHash,
    pub(crate) receipt: TransactionReceipt,
    /// Where a contract creation puts the contract.
    created: Address,
}

impl Call {
    /// A function of `contract`, without ether.
    pub(crate) fn function(what: impl Into<String>, contract: Address, call: &impl SolCall) -> Self {
        Self { what: what.into(), to: Some(contract), data: call.abi_encode().into(), value: U256::ZERO, least_gas: 0 }
    }

    /// The creation of a contract.
    pub(crate) fn creation(what: impl Into<String>, init_code: Bytes) -> Self {
        Self { what: what.into(), to: None, data: init_code, value: U256::ZERO, least_gas: 0 }
    }

    /// With ether, in wei.
    pub(crate) fn paying(self, value: U256) -> Self {
        Self { value, ..self }
    }

    /// With so much gas at least: for a call that what else is in its block can make dearer than it was when it was estimated.
    pub(crate) fn with_least_gas(self, least_gas: u64) -> Self {
        Self { least_gas, ..self }
    }

    pub(super) fn request(&self, from: Address) -> TransactionRequest {
        let request =
            TransactionRequest::default().with_from(from).with_input(self.data.clone()).with_value(self.value);
        match self.to {
            Some(to) => request.with_to(to),
            None => request.into_create(),
        }
    }
}

impl Operator {
    /// Reads the key, then connects.
    pub(crate) async fn connect(settings: &Settings, args: &SignerArgs) -> anyhow::Result<Self> {
        settings.rpc_url()?;
        let (address, key) = match args.sender()? {
            Sender::Signs(key) => (key.address(), Some(key)),
            Sender::Nobody(address) => (address, None),
        };
        let chain = Chain::connect(settings).await?;
        let (receipt_timeout, max_gas_price) = (args.receipt_timeout(), args.max_gas_price());
        Ok(Self { chain, address, key, receipt_timeout, max_gas_price })
    }

    /// `--dry-run`: nothing may be sent.
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.key.is_none()
    }

    /// Signs a hash with the account's key: r ‖ s ‖ v, v = 27 or 28.
    pub(crate) fn sign_hash(&self, hash: B256) -> anyhow::Result<[u8; 65]> {
        let key = self.key.as_ref().context("a dry run signs nothing")?;
        Ok(key.sign_hash_sync(&hash).context("cannot sign")?.as_bytes())
    }

    /// Sends a call and waits for its block.
    pub(crate) async fn send(&self, printer: &Printer, call: &Call) -> anyhow::Result<Done> {
        let (chain, what) = (&self.chain, &call.what);
        let failed = || format!("cannot {what}");
        let key = self.key.as_ref().context("a dry run sends nothing").with_context(failed)?;
        if let Some(contract) = call.to {
            chain.require_code(contract).await?;
        }
        // Estimating runs the call: what the contract would refuse costs nothing.
        let fees = self.quote(call, StateOverride::default()).await.with_context(failed)?;
        // Asked anew for each transaction, and after those that wait for a block.
        let nonce = self.nonce(BlockId::pending()).await.with_context(failed)?;
        let target = call.to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
        let cost = about(fees.max_cost());
        let value = if call.value.is_zero() { String::new() } else { format!(" with {} ether", ether(call.value)) };
        printer.note(format!(
            "{what}: {} sends to {target}{value} on chain {}, for at most {cost} ether of gas",
            self.address, chain.id
        ));
        let transaction = self.sign(key, call, nonce, fees).await.with_context(failed)?;
        // The hash is ours: the endpoint's word for it is not needed, nor whether its answer arrives.
        let hash = *transaction.tx_hash();
        let sent = chain.ask(chain.provider.send_raw_transaction(&transaction.encoded_2718())).await;
        match sent {
            Ok(_) => printer.note(format!("{what}: sent transaction {hash}, waiting for its block")),
            Err(error) if error.as_error_resp().is_some() => {
                return Err(self.hinted(chain.explain(&error)).context(failed()));
            }
            Err(error) => {
                let error = chain.plain(&error);
                printer.note(format!("{what}: transaction {hash} may have been sent ({error}), waiting for its block"));
            }
        }
        let receipt = self.receipt(hash).await.with_context(failed)?;
        if !receipt.status() {
            let block = receipt.block_number.map_or_else(BlockId::latest, BlockId::number);
            let replay = chain.ask(chain.provider.call(call.request(self.address)).block(block)).await;
            let reason = replay.err().map_or_else(|| anyhow::anyhow!("reason unknown"), |error| chain.explain(&error));
            return Err(reason.context(format!("transaction {hash} was reverted")).context(failed()));
        }
        Ok(Done { hash, receipt, created: self.address.create(nonce) })
    }

    /// What a call will cost. Fails, with the contract's reason, where it would be refused.
    pub(super) async fn quote(&self, call: &Call, assuming: StateOverride) -> anyhow::Result<Fees> {
        let chain = &self.chain;
        let estimate = chain.provider.estimate_gas(call.request(self.address)).block(BlockId::latest());
        // Not every endpoint takes an empty set of them.
        let estimate = if assuming.is_empty() { estimate } else { estimate.overrides(assuming) };
        let gas = chain.ask(estimate).await.map_err(|error| self.hinted(chain.explain(&error)))?;
        let (price, base_fee) = self.price().await?;
        Ok(Fees::new(gas, call.least_gas, base_fee, price, self.max_gas_price)?)
    }

    /// The usual price of gas and the newest block's base fee, wei.
    async fn price(&self) -> anyhow::Result<(u128, Option<u64>)> {
        let chain = &self.chain;
        let price = chain.ask(chain.provider.get_gas_price()).await;
        let price = price.map_err(|error| chain.plain(&error).context("cannot read the gas price"))?;
        Ok((price, chain.newest().await?.base_fee_per_gas))
    }

    /// The account's next nonce at a block.
    pub(super) async fn nonce(&self, at: BlockId) -> anyhow::Result<u64> {
        let chain = &self.chain;
        let nonce = chain.ask(chain.provider.get_transaction_count(self.address).block_id(at)).await;
        nonce.map_err(|error| chain.plain(&error).context(format!("cannot read the nonce of {}", self.address)))
    }

    async fn sign(&self, key: &PrivateKeySigner, call: &Call, nonce: u64, fees: Fees) -> anyhow::Result<TxEnvelope> {
        let request =
            call.request(self.address).with_chain_id(self.chain.id).with_nonce(nonce).with_gas_limit(fees.gas);
        let request = match fees.tip {
            Some(tip) => request.with_max_fee_per_gas(fees.max_fee_per_gas).with_max_priority_fee_per_gas(tip),
            None => request.with_gas_price(fees.max_fee_per_gas),
        };
        request.build(&EthereumWallet::from(key.clone())).await.context("cannot sign the transaction")
    }

    async fn receipt(&self, hash: TxHash) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + self.receipt_timeout;
        let mut trouble = None;
        while Instant::now() < deadline {
            let asking = self.chain.ask(self.chain.provider.get_transaction_receipt(hash));
            match tokio::time::timeout_at(deadline, asking).await {
                Ok(Ok(Some(receipt))) if receipt.transaction_hash == hash => return Ok(receipt),
                Ok(Ok(_)) => trouble = None,
                Ok(Err(error)) => trouble = Some(self.chain.plain(&error)),
                Err(_) => trouble = Some(anyhow::anyhow!("the endpoint does not answer")),
            }
            sleep_until((Instant::now() + RECEIPT_POLL).min(deadline)).await;
        }
        let failure = Failure::new(format!("transaction {hash} is in no block after {:?}", self.receipt_timeout))
            .hint("it may still get into one: look it up before sending again");
        Err(match trouble {
            Some(error) => error.context(failure),
            None => failure.into(),
        })
    }

    /// Adds the usual next step to what nodes say in their own words.
    pub(super) fn hinted(&self, error: anyhow::Error) -> anyhow::Error {
        let text = error.to_string().to_lowercase();
        if text.contains("insufficient funds") {
            return error.context(
                Failure::new(format!("{} cannot pay for it on chain {}", self.address, self.chain.id))
                    .hint("send it funds, or use another key"),
            );
        }
        error
    }
}

impl Done {
    /// The new contract of a creation: where the chain's rules put it, whatever the endpoint says.
    pub(crate) const fn created(&self) -> Address {
        self.created
    }

    /// The first log of `contract` that decodes as `E`.
    pub(crate) fn event<E: SolEvent>(&self, contract: Address) -> anyhow::Result<E> {
        let logs = self.receipt.inner.logs().iter().filter(|log| log.address() == contract);
        let mut decoded = logs.filter_map(|log| E::decode_log(&log.inner).ok());
        let event = decoded.next().map(|log| log.data);
        event.with_context(|| format!("transaction {} has no `{}` event of {contract}", self.hash, E::SIGNATURE))
    }
}
