//! Sending a transaction from the node's own address, when that address has funds. Nothing waits for it to be mined: the
//! contract's state says whether it was.

use std::sync::{Arc, PoisonError};

use alloy::{
    consensus::{SignableTransaction as _, TxEnvelope},
    eips::eip2718::Encodable2718 as _,
    network::{NetworkTransactionBuilder as _, TransactionBuilder as _},
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::types::TransactionRequest,
};
use mesh_contract::VOTE_GAS;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{
    quorum::gather_in_time,
    rpc::{Header, RpcError, Source, nonsense},
    sources::Sources,
    spending::{Expense, OverLimit},
};
use crate::identity::signer::Signer;

/// Why no transaction was sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSubmitted {
    /// The contract would refuse it.
    #[error("the contract would refuse it: {reason}")]
    Refused {
        /// The custom error, explained.
        reason: String,
        /// What to do about it, in our own words.
        remedy: Option<String>,
    },
    /// The member address cannot pay.
    #[error("member address {address} has {balance} wei, about {needed} wei are needed")]
    NoFunds {
        /// The member address.
        address: Address,
        /// What it has.
        balance: U256,
        /// What it takes, at most.
        needed: U256,
    },
    /// The endpoint did not answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// It takes more gas than any of ours.
    #[error(
        "the RPC endpoint estimates {gas} gas, and none of the agent's transactions takes more than {MAX_GAS}: not paid"
    )]
    Absurd {
        /// As estimated, with a margin.
        gas: u64,
    },
    /// More than is spent in a day, or for one unit of gas.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The signer refused.
    #[error("cannot sign the transaction: {reason}")]
    Sign {
        /// Its words.
        reason: String,
    },
}

impl NotSubmitted {
    /// What the agent has to know of it.
    pub(crate) fn for_agent(&self) -> mesh_core::agent::NotSubmitted {
        let remedy = match self {
            Self::Refused { remedy, .. } => remedy.clone(),
            Self::NoFunds { .. } | Self::Rpc(_) | Self::Absurd { .. } | Self::OverLimit(_) | Self::Sign { .. } => None,
        };
        let is_unheard = matches!(self, Self::Rpc(_));
        mesh_core::agent::NotSubmitted { reason: self.to_string(), remedy, is_unheard }
    }
}

const SEND: &str = "eth_sendRawTransaction";
/// Gas above the estimate, percent: the state may move between estimate and block.
const GAS_MARGIN: u64 = 25;
/// About what a registration takes.
const TYPICAL_GAS: u64 = 250_000;
/// What every transaction may take.
const MIN_GAS: u64 = VOTE_GAS;
/// Twice what a registration can take.
const MAX_GAS: u64 = 600_000;
impl Sources {
    /// Sends a transaction from the signer's address to the contract, through all endpoints. As many as must agree about a read
    /// must be ready to take it; its price and nonce are the middle of what those say, its hash is its own and nobody's claim.
    ///
    /// # Errors
    /// Nobody took it: see [`NotSubmitted`].
    pub async fn submit(&self, signer: &Signer, chain_id: u64, calldata: Bytes) -> Result<B256, NotSubmitted> {
        let contract = self.subject.contract;
        let quotes = self.sources.iter().map(|source| quote(source, signer.address(), contract, &calldata));
        let (quotes, refusals) = split(gather_in_time(quotes, |_| false).await);
        if quotes.len() < self.need {
            return Err(most_telling(refusals));
        }
        let quote = Quote::middle(&quotes);
        self.book(quote).await?;
        let signed = sign(signer, chain_id, contract, calldata, quote)?;
        let raw = Bytes::from(signed.encoded_2718());
        let (taken, refusals) =
            split(gather_in_time(self.sources.iter().map(|source| send(source, raw.clone())), |_| false).await);
        if taken.is_empty() {
            return Err(most_telling(refusals));
        }
        Ok(*signed.tx_hash())
    }

    /// Before anybody gets it: what was handed over may be mined, whatever is answered.
    async fn book(&self, quote: Quote) -> Result<(), NotSubmitted> {
        let spending = Arc::clone(&self.spending);
        let expense = Expense { nonce: quote.nonce, gas: quote.gas, price: quote.fees.max };
        // It waits for the disk.
        let booked =
            spawn_blocking(move || spending.lock().unwrap_or_else(PoisonError::into_inner).book(expense)).await;
        booked.unwrap_or_else(|error| Err(OverLimit::Unkept { reason: error.to_string() })).map_err(NotSubmitted::from)
    }
}

fn split<T>(results: Vec<Option<Result<T, NotSubmitted>>>) -> (Vec<T>, Vec<NotSubmitted>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results.into_iter().flatten() {
        match result {
            Ok(value) => good.push(value),
            Err(error) => bad.push(error),
        }
    }
    (good, bad)
}

/// What helps most of what the endpoints said: a word of the contract or about funds before one about the connection.
fn most_telling(mut refusals: Vec<NotSubmitted>) -> NotSubmitted {
    let telling = refusals.iter().position(|refusal| !matches!(refusal, NotSubmitted::Rpc(_)));
    match telling.or(refusals.len().checked_sub(1)) {
        Some(index) => refusals.swap_remove(index),
        None => NotSubmitted::Rpc(nonsense(SEND, "no RPC endpoint answered")),
    }
}

/// What one endpoint says a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quote {
    nonce: u64,
    gas: u64,
    fees: Fees,
}

impl Quote {
    /// Each figure by itself; of an even number the lower one: too low is refused or waits, too high is paid. `quotes` has one.
    fn middle(quotes: &[Self]) -> Self {
        Self {
            nonce: lower_median(quotes, |quote| quote.nonce),
            gas: lower_median(quotes, |quote| quote.gas),
            fees: lower_median(quotes, |quote| quote.fees),
        }
    }
}

fn lower_median<T: Ord + Copy>(quotes: &[Quote], figure: impl Fn(&Quote) -> T) -> T {
    let mut figures: Vec<T> = quotes.iter().map(figure).collect();
    figures.sort_unstable();
    figures[(figures.len() - 1) / 2]
}

async fn quote(source: &Source, from: Address, contract: Address, calldata: &Bytes) -> Result<Quote, NotSubmitted> {
    let call = json!({ "from": from, "to": contract, "data": calldata });
    // The nonce is the mined one, not the pending one: another attempt replaces the one before instead of paying for a second.
    let (balance, nonce, head, gas_price): (U256, U64, Header, U256) = tokio::try_join!(
        source.request("eth_getBalance", (from, "latest")),
        source.request("eth_getTransactionCount", (from, "latest")),
        source.head(),
        source.request("eth_gasPrice", ()),
    )?;
    let fees = Fees::from(head.base_fee_per_gas, gas_price);
    let afford = |gas: u64| {
        let needed = U256::from(fees.max).saturating_mul(U256::from(gas));
        if balance < needed { Err(NotSubmitted::NoFunds { address: from, balance, needed }) } else { Ok(()) }
    };
    // Without a balance some endpoints refuse to estimate: a typical figure tells the operator how much is missing. But what the
    // contract would refuse is not worth anybody's money, and a call that changes nothing needs none.
    if let Err(poor) = afford(TYPICAL_GAS) {
        let tried = source.request::<_, IgnoredAny>("eth_call", (&call, "latest")).await;
        return Err(match tried {
            Err(error @ RpcError::Refused { revert: Some(_), .. }) => refusal(source, error),
            Ok(IgnoredAny) | Err(_) => poor,
        });
    }
    let estimate = source.request("eth_estimateGas", (call,)).await;
    let estimate: U64 = estimate.map_err(|error| refusal(source, error))?;
    let gas = (estimate.to::<u64>().saturating_mul(100 + GAS_MARGIN) / 100).max(MIN_GAS);
    if gas > MAX_GAS {
        return Err(NotSubmitted::Absurd { gas });
    }
    afford(gas)?;
    Ok(Quote { nonce: nonce.to(), gas, fees })
}

fn sign(
    signer: &Signer,
    chain_id: u64,
    contract: Address,
    calldata: Bytes,
    quote: Quote,
) -> Result<TxEnvelope, NotSubmitted> {
    let request = TransactionRequest::default()
        .with_from(signer.address())
        .with_to(contract)
        .with_input(calldata)
        .with_chain_id(chain_id)
        .with_nonce(quote.nonce)
        .with_gas_limit(quote.gas);
    let request = match quote.fees.tip {
        Some(tip) => request.with_max_fee_per_gas(quote.fees.max).with_max_priority_fee_per_gas(tip),
        None => request.with_gas_price(quote.fees.max),
    };
    let unsigned = request.build_unsigned().map_err(|error| NotSubmitted::Sign { reason: error.to_string() })?;
    let signature = signer.sign(unsigned.signature_hash()).map_err(|reason| NotSubmitted::Sign { reason })?;
    Ok(unsigned.into_envelope(signature))
}

/// Hands it over. What the endpoint calls it is not asked.
async fn send(source: &Source, raw: Bytes) -> Result<(), NotSubmitted> {
    match source.request::<_, IgnoredAny>(SEND, (raw,)).await {
        Ok(IgnoredAny) => Ok(()),
        // The same transaction, from another endpoint or sent before, and not mined yet.
        Err(RpcError::Refused { message, .. }) if message.contains("already known") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What is paid for one unit of gas, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fees {
    max: u128,
    /// `None` on a chain without a base fee (EIP-1559).
    tip: Option<u128>,
}

impl Fees {
    /// Twice the base fee fits six full blocks in a row. Whether that is too much, [`super::Spending`] says.
    fn from(base_fee: Option<U256>, gas_price: U256) -> Self {
        let wanted = match base_fee {
            Some(base) => base.saturating_add(base).saturating_add(gas_price.saturating_sub(base)),
            None => gas_price,
        };
        let tip = base_fee.map(|base| gas_price.saturating_sub(base).saturating_to());
        Self { max: wanted.saturating_to(), tip }
    }
}

/// A revert, explained; anything else as it is.
fn refusal(source: &Source, error: RpcError) -> NotSubmitted {
    if let RpcError::Refused { revert: Some(revert), message, .. } = &error {
        let (reason, remedy) = match mesh_contract::explain_revert(revert) {
            Some(explanation) => (explanation.reason, explanation.hint),
            None => (message.clone(), None),
        };
        return NotSubmitted::Refused { reason: source.url().redact(&reason), remedy };
    }
    NotSubmitted::Rpc(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fees_follow_the_base_fee() {
        let gwei = |number: u64| U256::from(number) * U256::from(1_000_000_000u64);
        let fees = Fees::from(Some(gwei(10)), gwei(12));
        assert_eq!(fees, Fees { max: 22_000_000_000, tip: Some(2_000_000_000) });
        assert_eq!(Fees::from(None, gwei(12)), Fees { max: 12_000_000_000, tip: None });
        assert_eq!(Fees::from(Some(U256::MAX), U256::MAX).max, u128::MAX);
    }

    #[test]
    fn one_endpoint_of_three_sets_no_figure() {
        let quote = |nonce, gas, max| Quote { nonce, gas, fees: Fees { max, tip: Some(1) } };
        for liar in [quote(0, 1, 1), quote(900, 600_000, u128::MAX)] {
            let Quote { nonce, gas, fees } = Quote::middle(&[liar, quote(7, 250_000, 100), quote(7, 250_100, 110)]);
            assert!(nonce == 7 && (250_000..=250_100).contains(&gas) && (100..=110).contains(&fees.max), "{liar:?}");
        }
        assert_eq!(Quote::middle(&[quote(7, 9, 9), quote(7, 5, 5)]), quote(7, 5, 5));
    }
}
