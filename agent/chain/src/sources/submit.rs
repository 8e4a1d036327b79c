//! Sending a transaction from the node's own address, when that address has funds. Nothing waits for it to be mined: the
//! contract's state says whether it was.

use std::sync::{Arc, PoisonError};

use alloy_primitives::{Address, B256, Bytes, U256};
use mesh_contract::VOTE_GAS;
use mesh_core::wei::Wei;
use tokio::task::spawn_blocking;

use super::{Sources, gather::gather_in_time};
use crate::{
    At, CallRequest, EndpointMessage, Expense, Fees, GasPrice, OverLimit, RpcError, Signer, Source, StateOverride,
    Transaction,
    fees::{ether, ether_at_most, with_margin},
    source::SEND,
};

/// Why no transaction was sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSubmitted {
    /// The contract would refuse it.
    #[error("the contract would refuse it: {reason}")]
    Refused {
        /// The custom error, explained.
        reason: EndpointMessage,
        /// What to do about it, in our own words.
        remedy: Option<String>,
    },
    /// The member address cannot pay.
    #[error("member address {address} has {} ether, about {} ether are needed", ether(*balance), ether_at_most(*needed))]
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
    FeeTooHigh {
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
    #[must_use]
    pub fn for_agent(&self) -> mesh_core::agent::NotSubmitted {
        let remedy = match self {
            Self::Refused { remedy, .. } => remedy.clone(),
            Self::NoFunds { .. } | Self::Rpc(_) | Self::FeeTooHigh { .. } | Self::OverLimit(_) | Self::Sign { .. } => {
                None
            }
        };
        let is_unheard = matches!(self, Self::Rpc(_));
        let balance = if let Self::NoFunds { balance, .. } = self { Some(Wei(*balance)) } else { None };
        mesh_core::agent::NotSubmitted { reason: self.to_string(), remedy, is_unheard, balance }
    }
}

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
    /// must be ready to take it; its price and nonce are the medians of what those say, and its hash is computed here.
    ///
    /// # Errors
    /// No endpoint took it: see [`NotSubmitted`].
    pub async fn submit(&self, signer: &impl Signer, chain_id: u64, calldata: Bytes) -> Result<B256, NotSubmitted> {
        let (from, contract) = (signer.address(), self.subject.contract);
        let call = CallRequest { from: Some(from), to: Some(contract), data: calldata, value: None };
        let quotes = self.sources.iter().map(|source| quote(source, from, &call));
        let (quotes, refusals) = split(gather_in_time(quotes, |_| false).await);
        if quotes.len() < self.need {
            return Err(most_telling(refusals));
        }
        let Quote { nonce, gas, price } = Quote::middle(&quotes);
        self.book(Expense { nonce, gas, price: price.max }).await?;
        let fees = Fees { gas, price };
        let transaction = Transaction { chain_id, nonce, fees, to: Some(contract), value: U256::ZERO, data: call.data };
        let signed = transaction.sign(signer).map_err(|reason| NotSubmitted::Sign { reason })?;
        let sent = self.sources.iter().map(|source| send(source, &signed.raw));
        let (taken, refusals) = split(gather_in_time(sent, |_| false).await);
        if taken.is_empty() {
            return Err(most_telling(refusals));
        }
        Ok(signed.hash)
    }

    /// Before any endpoint gets it: what was handed over may be mined, whatever is answered.
    async fn book(&self, expense: Expense) -> Result<(), NotSubmitted> {
        let spending = Arc::clone(&self.spending);
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
        None => NotSubmitted::Rpc(RpcError::invalid_response(SEND, "no RPC endpoint answered")),
    }
}

/// What one endpoint says a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quote {
    nonce: u64,
    gas: u64,
    price: GasPrice,
}

impl Quote {
    /// Each figure by itself; of an even number the lower one: too low is refused or waits, too high is paid. `quotes` has one.
    fn middle(quotes: &[Self]) -> Self {
        Self {
            nonce: lower_median(quotes, |quote| quote.nonce),
            gas: lower_median(quotes, |quote| quote.gas),
            price: lower_median(quotes, |quote| quote.price),
        }
    }
}

fn lower_median<T: Ord + Copy>(quotes: &[Quote], figure: impl Fn(&Quote) -> T) -> T {
    let mut figures: Vec<T> = quotes.iter().map(figure).collect();
    figures.sort_unstable();
    figures[(figures.len() - 1) / 2]
}

async fn quote(source: &Source, from: Address, call: &CallRequest) -> Result<Quote, NotSubmitted> {
    // The nonce is the mined one, not the pending one: another attempt replaces the one before instead of paying for a second.
    let (balance, nonce, head, gas_price) =
        tokio::try_join!(source.balance(from), source.nonce(from, At::Latest), source.head(), source.gas_price(),)?;
    let price = GasPrice::named(head.base_fee_per_gas, gas_price);
    let afford = |gas: u64| {
        let needed = Fees { gas, price }.max_cost();
        if balance < needed { Err(NotSubmitted::NoFunds { address: from, balance, needed }) } else { Ok(()) }
    };
    // Without a balance some endpoints refuse to estimate: a typical figure tells the operator how much is missing. But what the
    // contract would refuse is not worth sending funds for, and a call that changes nothing needs none.
    if let Err(poor) = afford(TYPICAL_GAS) {
        let tried = source.try_call(call, At::Latest, &StateOverride::new()).await;
        return Err(match tried {
            Err(error @ RpcError::Refused { revert: Some(_), .. }) => refusal(source, error),
            Ok(_) | Err(_) => poor,
        });
    }
    let estimate = source.estimate_gas(call, &StateOverride::new()).await;
    let estimate = estimate.map_err(|error| refusal(source, error))?;
    let gas = with_margin(estimate, GAS_MARGIN).max(MIN_GAS);
    if gas > MAX_GAS {
        return Err(NotSubmitted::FeeTooHigh { gas });
    }
    afford(gas)?;
    Ok(Quote { nonce, gas, price })
}

/// Hands it over. What the endpoint calls it is not asked.
async fn send(source: &Source, raw: &Bytes) -> Result<(), NotSubmitted> {
    match source.send(raw).await {
        // The same transaction, from another endpoint or sent before, and not mined yet.
        Err(RpcError::Refused { message, .. }) if message.as_str().contains("already known") => Ok(()),
        sent => Ok(sent?),
    }
}

/// A revert, explained; anything else as it is.
fn refusal(source: &Source, error: RpcError) -> NotSubmitted {
    if let RpcError::Refused { revert: Some(revert), message, .. } = &error {
        let (reason, remedy) = match mesh_contract::explain_revert(revert) {
            Some(explanation) => (EndpointMessage::new(source.url(), &explanation.reason), explanation.hint),
            None => (message.clone(), None),
        };
        return NotSubmitted::Refused { reason, remedy };
    }
    NotSubmitted::Rpc(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_of_three_sets_no_figure() {
        let quote = |nonce, gas, max| Quote { nonce, gas, price: GasPrice { max, tip: Some(1) } };
        for liar in [quote(0, 1, 1), quote(900, 600_000, u128::MAX)] {
            let Quote { nonce, gas, price } = Quote::middle(&[liar, quote(7, 250_000, 100), quote(7, 250_100, 110)]);
            assert!(nonce == 7 && (250_000..=250_100).contains(&gas) && (100..=110).contains(&price.max), "{liar:?}");
        }
        assert_eq!(Quote::middle(&[quote(7, 9, 9), quote(7, 5, 5)]), quote(7, 5, 5));
    }
}
