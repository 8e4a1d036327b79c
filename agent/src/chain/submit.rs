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

use super::rpc::{RpcError, Source};

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
    /// The signer refused.
    #[error("cannot sign the transaction: {reason}")]
    Sign {
        /// Its words.
        reason: String,
    },
}

/// Gas above the estimate, percent: the state may move between estimate and block.
const GAS_MARGIN: u64 = 25;

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
    let (balance, nonce, gas_price): (U256, U64, U256) = tokio::try_join!(
        source.request("eth_getBalance", (from, "latest")),
        source.request("eth_getTransactionCount", (from, "pending")),
        source.request("eth_gasPrice", ()),
    )?;
    if balance.is_zero() {
        let needed = gas_price.saturating_mul(U256::from(300_000));
        return Err(NotSubmitted::NoFunds { address: from, balance, needed });
    }
    let estimate: U64 = source.request("eth_estimateGas", (call,)).await.map_err(refusal)?;
    let gas = estimate.to::<u64>().saturating_add(estimate.to::<u64>().saturating_mul(GAS_MARGIN) / 100);
    let max_fee = gas_price.saturating_mul(U256::from(2));
    let needed = max_fee.saturating_mul(U256::from(gas));
    if balance < needed {
        return Err(NotSubmitted::NoFunds { address: from, balance, needed });
    }
    let sign = |reason: String| NotSubmitted::Sign { reason };
    let max_fee = u128::try_from(max_fee).map_err(|_| sign("the gas price is absurd".to_owned()))?;
    let request = TransactionRequest::default()
        .with_from(from)
        .with_to(contract)
        .with_input(calldata)
        .with_chain_id(chain_id)
        .with_nonce(nonce.to())
        .with_gas_limit(gas)
        .with_gas_price(max_fee / 2);
    let signed: TxEnvelope =
        request.build(&EthereumWallet::from(signer.clone())).await.map_err(|error| sign(error.to_string()))?;
    Ok(source.request("eth_sendRawTransaction", (Bytes::from(signed.encoded_2718()),)).await?)
}

/// A revert, explained; anything else as it is.
fn refusal(error: RpcError) -> NotSubmitted {
    if let RpcError::Refused { revert: Some(revert), message, .. } = &error {
        let reason = mesh_contract::explain_revert(revert).unwrap_or_else(|| message.clone());
        return NotSubmitted::Refused { reason };
    }
    NotSubmitted::Rpc(error)
}
