//! Transactions: each is announced first, is not sent if the contract would refuse it, and is waited for once it is sent. Everything
//! that is signed is chosen here; the endpoint names nonce, gas and price, and is believed within bounds.

use std::{ops::RangeInclusive, time::Duration};

use alloy_primitives::{Address, B256, Bytes, TxHash, U256};
use alloy_sol_types::{SolCall, SolError as _, SolEvent};
use anyhow::Context as _;
use mesh_chain::{
    At, CallRequest, Fees, GasPrice, Receipt, RpcError, Signed, Signer as _, StateOverride, Transaction,
    fees::{ether, ether_at_most, gwei, with_margin},
};
use mesh_contract::DstackClusterNFT::{
    ERC721InsufficientApproval, NotTokenOwner, OwnableUnauthorizedAccount, ownerCall, ownerOfCall,
};
use tokio::time::{Instant, sleep_until};

use super::{Chain, plain, refused};
use crate::{
    confirm::Consequences,
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::{OperatorKey, Sender, SignerArgs},
};

/// The most gas one transaction may use on Ethereum (EIP-7825).
const MAX_GAS: u64 = 1 << 24;
/// Gas above the estimate, percent.
const GAS_MARGIN: u64 = 20;
/// How often the receipt of a pending transaction is asked for.
const RECEIPT_POLL: Duration = Duration::from_millis(200);

/// A connected endpoint, and the account that sends.
pub(crate) struct Operator {
    pub(crate) chain: Chain,
    /// The account's address.
    pub(crate) address: Address,
    /// `None` in a dry run.
    key: Option<OperatorKey>,
    receipt_timeout: Duration,
    /// Wei.
    max_gas_price: u128,
    /// What cannot be taken back at once is not asked about.
    yes: bool,
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
    /// The least gas it gets.
    pub(crate) least_gas: u64,
    /// The most gas it may use: it is not sent where it would take more.
    pub(crate) most_gas: u64,
    /// What the operator must agree to before it is sent.
    pub(crate) consequences: Option<Consequences>,
}

/// A transaction that is in a block and succeeded.
pub(crate) struct Done {
    pub(crate) hash: TxHash,
    pub(crate) receipt: Receipt,
    /// Where a contract creation puts the contract.
    created: Address,
}

impl Call {
    /// A call without ether.
    pub(crate) const fn new(what: String, to: Option<Address>, data: Bytes) -> Self {
        Self { what, to, data, value: U256::ZERO, least_gas: 0, most_gas: MAX_GAS, consequences: None }
    }

    /// A function of `contract`, without ether.
    pub(crate) fn function(what: impl Into<String>, contract: Address, call: &impl SolCall) -> Self {
        Self::new(what.into(), Some(contract), call.abi_encode().into())
    }

    /// The creation of a contract.
    pub(crate) fn creation(what: impl Into<String>, init_code: Bytes) -> Self {
        Self::new(what.into(), None, init_code)
    }

    /// A payment in wei, to an account or a contract.
    pub(crate) fn payment(what: String, to: Address, value: U256) -> Self {
        Self { value, ..Self::new(what, Some(to), Bytes::new()) }
    }

    /// What it calls: a contract that must be there.
    pub(super) fn callee(&self) -> Option<Address> {
        self.to.filter(|_| !self.data.is_empty())
    }

    /// With ether, in wei.
    pub(crate) fn paying(self, value: U256) -> Self {
        Self { value, ..self }
    }

    /// With this much gas at least: for a call that other transactions in its block can make more expensive than its estimate.
    pub(crate) fn with_least_gas(self, least_gas: u64) -> Self {
        Self { least_gas, ..self }
    }

    /// With this much gas at most: for a call of a contract that is not of this repository, whose usual cost is known.
    pub(crate) fn with_most_gas(self, most_gas: u64) -> Self {
        Self { most_gas, ..self }
    }

    /// The same; the operator is asked first, if there is something to ask about.
    pub(crate) fn after_asking(self, consequences: impl Into<Option<Consequences>>) -> Self {
        Self { consequences: consequences.into(), ..self }
    }

    pub(super) fn request(&self, from: Address) -> CallRequest {
        let value = (!self.value.is_zero()).then_some(self.value);
        CallRequest { from: Some(from), to: self.to, data: self.data.clone(), value }
    }
}

impl Operator {
    /// Reads the key, then connects.
    pub(crate) async fn connect(settings: &Settings, args: &SignerArgs) -> anyhow::Result<Self> {
        settings.rpc_url()?;
        let (address, key) = match args.sender()? {
            Sender::Signs(key) => (key.address(), Some(key)),
            Sender::DryRun(address) => (address, None),
        };
        let chain = Chain::connect(settings).await?;
        let (receipt_timeout, max_gas_price) = (args.receipt_timeout(), args.max_gas_price());
        Ok(Self { chain, address, key, receipt_timeout, max_gas_price, yes: settings.yes() })
    }

    /// The same, and looks whether the settings' contract is a cluster.
    pub(crate) async fn of_cluster(settings: &Settings, args: &SignerArgs) -> anyhow::Result<(Self, Address)> {
        let contract = settings.contract()?;
        let operator = Self::connect(settings, args).await?;
        operator.chain.require_cluster_of(settings, contract).await?;
        Ok((operator, contract))
    }

    /// `--dry-run`: nothing may be sent.
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.key.is_none()
    }

    /// Signs a hash with the account's key: r ‖ s ‖ v, v = 27 or 28.
    pub(crate) fn sign_hash(&self, hash: B256) -> anyhow::Result<[u8; 65]> {
        let key = self.key.as_ref().context("a dry run signs nothing")?;
        let signature = key.sign(hash).map_err(|error| anyhow::anyhow!("cannot sign: {error}"))?;
        Ok(signature.as_bytes())
    }

    /// Sends a call and waits for its block.
    pub(crate) async fn send(&self, printer: &Printer, call: &Call) -> anyhow::Result<Done> {
        let (chain, what) = (&self.chain, &call.what);
        let failed = || format!("cannot {what}");
        let key = self.key.as_ref().context("a dry run sends nothing").with_context(failed)?;
        if let Some(contract) = call.callee() {
            chain.require_code(contract).await?;
        }
        // Estimating runs the call: what the contract would refuse costs nothing.
        let mut fees = self.quote(call, &StateOverride::new()).await.with_context(failed)?;
        if let Some(consequences) = &call.consequences {
            consequences.confirm(printer, what, self.yes)?;
            // The answer may have taken minutes, in which prices moved and others sent.
            if !self.yes {
                fees = self.quote(call, &StateOverride::new()).await.with_context(failed)?;
            }
        }
        // Read anew for each transaction, with the pending ones counted.
        let nonce = self.nonce(At::Pending).await.with_context(failed)?;
        let target = call.to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
        let cost = ether_at_most(fees.max_cost());
        let value = if call.value.is_zero() { String::new() } else { format!(" with {} ether", ether(call.value)) };
        printer.note(format!(
            "{what}: {} sends to {target}{value} on chain {}, for at most {cost} ether of gas",
            self.address, chain.id
        ));
        let Signed { raw, hash } = self.sign(key, call, nonce, fees).with_context(failed)?;
        // The hash is ours: the endpoint's word for it is not needed, nor whether its answer arrives.
        match chain.source.send(&raw).await {
            Ok(()) => printer.note(format!("{what}: sent transaction {hash}, waiting for its block")),
            Err(error) if error.is_refusal() => {
                return Err(self.refusal(call, &error).await.context(failed()));
            }
            Err(error) => {
                let error = plain(&error);
                printer.note(format!("{what}: transaction {hash} may have been sent ({error}), waiting for its block"));
            }
        }
        let receipt = self.receipt(hash).await.with_context(failed)?;
        if !receipt.succeeded() {
            let block = receipt.block_number.map_or(At::Latest, At::Number);
            let replay = chain.source.try_call(&call.request(self.address), block, &StateOverride::new()).await;
            let reason = replay.err().map_or_else(|| anyhow::anyhow!("reason unknown"), |error| chain.explain(&error));
            return Err(reason.context(format!("transaction {hash} was reverted")).context(failed()));
        }
        printer.sent(hash);
        Ok(Done { hash, receipt, created: self.address.create(nonce) })
    }

    /// Waits until no earlier transaction of this account is under way: what it will have done could not be seen, and would be done again.
    ///
    /// # Errors
    /// They are in no block within the time of `--receipt-timeout`.
    pub(crate) async fn settle(&self, printer: &Printer) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.receipt_timeout;
        let mut is_said = false;
        loop {
            // In this order: one that gets into a block in between is waited for in vain, and not missed.
            let (mined, pending) = (self.nonce(At::Latest).await?, self.nonce(At::Pending).await?);
            if pending <= mined {
                return Ok(());
            }
            let count = pending - mined;
            let under_way = format!("{count} transaction{} of {}", if count == 1 { "" } else { "s" }, self.address);
            if Instant::now() >= deadline {
                let what = format!(
                    "{under_way} in no block after {:?}: what it does might be done twice",
                    self.receipt_timeout
                );
                return Err(Failure::new(what)
                    .hint("wait, or replace it with the wallet that sent it, then run the same command again")
                    .into());
            }
            if !std::mem::replace(&mut is_said, true) {
                printer.note(format!("waiting for {under_way} that was sent before"));
            }
            sleep_until((Instant::now() + RECEIPT_POLL).min(deadline)).await;
        }
    }

    /// What a call will cost. Fails, with the contract's reason, where it would be refused.
    pub(super) async fn quote(&self, call: &Call, assuming: &StateOverride) -> anyhow::Result<Fees> {
        let chain = &self.chain;
        let estimate = chain.source.estimate_gas(&call.request(self.address), assuming).await;
        let estimate = match estimate {
            Ok(estimate) => estimate,
            Err(error) => return Err(self.refusal(call, &error).await),
        };
        let gas_price = chain.source.gas_price().await;
        let gas_price = gas_price.map_err(|error| plain(&error).context("cannot read the gas price"))?;
        let price = GasPrice::named(chain.newest().await?.base_fee_per_gas, gas_price);
        Ok(bounded(estimate, call.least_gas..=call.most_gas, price, self.max_gas_price)?)
    }

    /// The account's next nonce at a block.
    pub(super) async fn nonce(&self, at: At) -> anyhow::Result<u64> {
        let nonce = self.chain.source.nonce(self.address, at).await;
        nonce.map_err(|error| plain(&error).context(format!("cannot read the nonce of {}", self.address)))
    }

    fn sign(&self, key: &OperatorKey, call: &Call, nonce: u64, fees: Fees) -> anyhow::Result<Signed> {
        let Call { to, data, value, .. } = call.clone();
        let transaction = Transaction { chain_id: self.chain.id, nonce, fees, to, value, data };
        transaction.sign(key).map_err(|error| anyhow::anyhow!("cannot sign the transaction: {error}"))
    }

    async fn receipt(&self, hash: TxHash) -> anyhow::Result<Receipt> {
        let deadline = Instant::now() + self.receipt_timeout;
        let mut trouble = None;
        while Instant::now() < deadline {
            let asking = self.chain.source.receipt(hash);
            match tokio::time::timeout_at(deadline, asking).await {
                Ok(Ok(Some(receipt))) if receipt.transaction_hash == hash => return Ok(receipt),
                Ok(Ok(_)) => trouble = None,
                Ok(Err(error)) => trouble = Some(plain(&error)),
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

    /// Why a call is refused. Where another account may do it, the hint names that one.
    pub(super) async fn refusal(&self, call: &Call, error: &RpcError) -> anyhow::Error {
        let RpcError::Refused { revert: Some(data), .. } = error else { return self.hinted(self.chain.explain(error)) };
        let refused = refused(data, self.chain.source.url());
        match self.whose_key(call, data).await {
            Some((whose, account)) => {
                let what = refused.to_string();
                Failure::new(what)
                    .hint(format!("send it from {whose} key: that of {account}, not of {}", self.address))
                    .into()
            }
            None => self.hinted(refused),
        }
    }

    /// Who may make a call that was refused to this account.
    async fn whose_key(&self, call: &Call, data: &[u8]) -> Option<(&'static str, Address)> {
        let contract = call.to?;
        let owner = if OwnableUnauthorizedAccount::abi_decode(data).is_ok() {
            ("the contract owner's", self.chain.read(contract, ownerCall {}, None).await.ok()?)
        } else {
            let foreign = NotTokenOwner::abi_decode(data).map(|error| error.tokenId);
            let foreign = foreign.or_else(|_| ERC721InsufficientApproval::abi_decode(data).map(|error| error.tokenId));
            ("the owner's", self.chain.read(contract, ownerOfCall { tokenId: foreign.ok()? }, None).await.ok()?)
        };
        (owner.1 != self.address).then_some(owner)
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
        let logs = self.receipt.logs.iter().filter(|log| log.address == contract);
        let mut decoded = logs.filter_map(|log| E::decode_log_data(&log.content()).ok());
        decoded
            .next()
            .with_context(|| format!("transaction {} has no `{}` event of {contract}", self.hash, E::SIGNATURE))
    }
}

/// Gas and price that the operator pays: an endpoint that lies must not burn the operator's funds.
fn bounded(estimate: u64, gas: RangeInclusive<u64>, price: GasPrice, max_gas_price: u128) -> Result<Fees, Failure> {
    if estimate > MAX_GAS {
        let what = format!("the endpoint estimates {estimate} gas, more than the {MAX_GAS} that a transaction may use");
        return Err(Failure::new(what).hint("use an endpoint that you trust"));
    }
    let (least, most) = gas.into_inner();
    if estimate > most {
        let what = format!("the endpoint estimates {estimate} gas, and this call should take {most} at most");
        return Err(Failure::new(what).hint(
            "nothing was sent: check that the contract is the one you mean, and use an endpoint that you trust",
        ));
    }
    if price.max > max_gas_price {
        let (named, limit) = (gwei(U256::from(price.max)), gwei(U256::from(max_gas_price)));
        let what = format!("the endpoint asks for {named} gwei per gas, more than the limit of {limit}");
        return Err(Failure::new(what).hint("wait, compare with another endpoint, or raise `--max-gas-price`"));
    }
    Ok(Fees { gas: with_margin(estimate, GAS_MARGIN).max(least).min(most), price })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    fn fees(estimate: u64, base: Option<u128>, price: u128) -> Result<Fees, String> {
        let price = GasPrice::named(base.map(U256::from), U256::from(price));
        bounded(estimate, 110..=MAX_GAS, price, 300 * GWEI).map_err(|failure| failure.to_string())
    }

    #[test]
    fn gas_is_the_estimate_and_a_fifth_within_bounds() {
        assert_eq!(fees(100, None, GWEI).unwrap().gas, 120);
        assert_eq!(fees(90, None, GWEI).unwrap().gas, 110, "what it gets at least");
        assert_eq!(fees(MAX_GAS, None, 1).unwrap().gas, MAX_GAS);
    }

    #[test]
    fn an_endpoint_cannot_burn_the_operators_funds() {
        for (base, price) in [(Some(200 * GWEI), 200 * GWEI), (Some(u128::MAX), u128::MAX), (None, 301 * GWEI)] {
            let refusal = fees(100, base, price).unwrap_err();
            assert!(refusal.contains("more than the limit of 300"), "{refusal}");
        }
        for estimate in [MAX_GAS + 1, u64::MAX] {
            assert!(fees(estimate, None, 1).unwrap_err().contains("may use"));
        }
        let price = || GasPrice::named(None, U256::from(1));
        let of = |estimate| bounded(estimate, 0..=100, price(), GWEI);
        assert_eq!(of(90).unwrap().gas, 100, "the margin stays within what the call may use");
        let refusal = of(101).unwrap_err().to_string();
        assert!(refusal.contains("estimates 101 gas, and this call should take 100 at most"), "{refusal}");
    }
}
