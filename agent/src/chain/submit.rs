//! Sending a transaction from the node's own address, when that address has funds. Nothing waits for it to be mined: the
//! contract's state says whether it was.

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Encodable2718 as _,
    network::{EthereumWallet, NetworkTransactionBuilder as _, TransactionBuilder as _},
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::types::TransactionRequest,
    signers::local::PrivateKeySigner,
};
use serde_json::json;

use super::rpc::{Header, RpcError, Source};

/// Why no transaction was sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSubmitted {
    /// The contract would refuse it.
    #[error("the contract would refuse it: {reason}")]
    Refused {
        /// The custom error, explained.
        reason: String,
    },
    /// The node address cannot pay.
    #[error("node address {address} has {balance} wei, about {needed} wei are needed")]
    NoFunds {
        /// The node address.
        address: Address,
        /// What it has.
        balance: U256,
        /// What it takes, at most.
        needed: U256,
    },
    /// The endpoint did not answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The endpoint names a price that nobody should pay.
    #[error(
        "the RPC endpoint names a {what} of {value}, more than the limit of {limit}: not paid; relay the registration with `meshctl register`"
    )]
    Absurd {
        /// Of what.
        what: &'static str,
        /// As named.
        value: U256,
        /// What would still be paid.
        limit: u128,
    },
    /// The signer refused.
    #[error("cannot sign the transaction: {reason}")]
    Sign {
        /// Its words.
        reason: String,
    },
}

/// Gas above the estimate, percent: the state may move between estimate and block.
const GAS_MARGIN: u64 = 25;
/// About what a registration takes.
const TYPICAL_GAS: u64 = 250_000;
/// Twice what a registration can take.
const MAX_GAS: u64 = 600_000;
/// Most that is paid for one unit of gas, wei (300 gwei).
const MAX_FEE_PER_GAS: u128 = 300_000_000_000;

/// Signs and sends a call of `contract` from the signer's address.
///
/// # Errors
/// See [`NotSubmitted`]; nothing was sent.
pub(super) async fn submit(
    source: &Source,
    signer: &PrivateKeySigner,
    chain_id: u64,
    contract: Address,
    calldata: Bytes,
) -> Result<B256, NotSubmitted> {
    let from = signer.address();
    let call = json!({ "from": from, "to": contract, "data": calldata });
    // Simulated without a gas price, so that a refusal is known even where there are no funds.
    let _: Bytes = source.request("eth_call", (call.clone(), "latest")).await.map_err(refusal)?;
    // The latest nonce, not the pending one: another attempt replaces the one before instead of paying for a second.
    let (balance, nonce, head, gas_price): (U256, U64, Header, U256) = tokio::try_join!(
        source.request("eth_getBalance", (from, "latest")),
        source.request("eth_getTransactionCount", (from, "latest")),
        source.head(),
        source.request("eth_gasPrice", ()),
    )?;
    let fees = Fees::from(head.base_fee_per_gas, gas_price)?;
    let afford = |gas: u64| {
        let needed = U256::from(fees.max).saturating_mul(U256::from(gas));
        if balance < needed { Err(NotSubmitted::NoFunds { address: from, balance, needed }) } else { Ok(()) }
    };
    // Without a balance some endpoints refuse to estimate: a typical figure tells the operator how much is missing.
    afford(TYPICAL_GAS)?;
    let estimate: U64 = source.request("eth_estimateGas", (call,)).await.map_err(refusal)?;
    let gas = estimate.to::<u64>().saturating_mul(100 + GAS_MARGIN) / 100;
    if gas > MAX_GAS {
        return Err(NotSubmitted::Absurd { what: "gas estimate", value: U256::from(gas), limit: MAX_GAS.into() });
    }
    afford(gas)?;
    let request = TransactionRequest::default()
        .with_from(from)
        .with_to(contract)
        .with_input(calldata)
        .with_chain_id(chain_id)
        .with_nonce(nonce.to())
        .with_gas_limit(gas);
    let request = match fees.tip {
        Some(tip) => request.with_max_fee_per_gas(fees.max).with_max_priority_fee_per_gas(tip),
        None => request.with_gas_price(fees.max),
    };
    let signed: TxEnvelope = request
        .build(&EthereumWallet::from(signer.clone()))
        .await
        .map_err(|error| NotSubmitted::Sign { reason: error.to_string() })?;
    let raw = Bytes::from(signed.encoded_2718());
    match source.request("eth_sendRawTransaction", (raw,)).await {
        Ok(hash) => Ok(hash),
        // The same transaction, sent before and not mined yet.
        Err(RpcError::Refused { message, .. }) if message.contains("already known") => Ok(*signed.tx_hash()),
        Err(error) => Err(error.into()),
    }
}

/// What is paid for one unit of gas, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fees {
    max: u128,
    /// `None` on a chain without a base fee (EIP-1559).
    tip: Option<u128>,
}

impl Fees {
    /// Twice the base fee fits six full blocks in a row. An endpoint that names an absurd price would have us burn our funds.
    fn from(base_fee: Option<U256>, gas_price: U256) -> Result<Self, NotSubmitted> {
        let wanted = match base_fee {
            Some(base) => base.saturating_add(base).saturating_add(gas_price.saturating_sub(base)),
            None => gas_price,
        };
        let absurd = || NotSubmitted::Absurd { what: "gas price", value: wanted, limit: MAX_FEE_PER_GAS };
        let max = u128::try_from(wanted).ok().filter(|max| *max <= MAX_FEE_PER_GAS).ok_or_else(absurd)?;
        let tip = base_fee.map(|base| gas_price.saturating_sub(base).saturating_to());
        Ok(Self { max, tip })
    }
}

/// A revert, explained; anything else as it is.
fn refusal(error: RpcError) -> NotSubmitted {
    if let RpcError::Refused { revert: Some(revert), message, .. } = &error {
        let reason = mesh_contract::explain_revert(revert).unwrap_or_else(|| message.clone());
        return NotSubmitted::Refused { reason };
    }
    NotSubmitted::Rpc(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fees_follow_the_base_fee_and_have_a_limit() {
        let gwei = |number: u64| U256::from(number) * U256::from(1_000_000_000u64);
        let fees = Fees::from(Some(gwei(10)), gwei(12)).unwrap();
        assert_eq!(fees, Fees { max: 22_000_000_000, tip: Some(2_000_000_000) });
        assert_eq!(Fees::from(None, gwei(12)).unwrap(), Fees { max: 12_000_000_000, tip: None });
        assert!(matches!(Fees::from(Some(gwei(200)), gwei(200)), Err(NotSubmitted::Absurd { .. })));
        assert!(matches!(Fees::from(Some(U256::MAX), U256::MAX), Err(NotSubmitted::Absurd { .. })));
        assert!(matches!(Fees::from(None, gwei(301)), Err(NotSubmitted::Absurd { .. })));
    }
}
