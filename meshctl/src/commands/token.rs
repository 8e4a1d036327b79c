//! What the commands on one token share: how it is named, and how the outcome is printed.

use alloy::{
    primitives::{Address, TxHash, U256},
    sol_types::SolCall,
};
use mesh_core::id::TokenId;
use serde::Serialize;

use crate::{
    chain::{Chain, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

/// The token, as the argument or as `--token`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TokenArg {
    /// The node's token
    #[arg(value_name = "TOKEN")]
    positional: Option<TokenId>,
    /// The same, as an option
    #[arg(long = "token", value_name = "TOKEN")]
    option: Option<TokenId>,
}

impl TokenArg {
    pub(crate) fn get(&self) -> anyhow::Result<TokenId> {
        self.positional.or(self.option).ok_or_else(|| crate::failure::Failure::usage("no token given").into())
    }
}

/// A token as the contract counts it.
pub(crate) fn uint(token: TokenId) -> U256 {
    U256::from(token.get())
}

/// What a transaction about one token did, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) contract: Address,
    pub(crate) chain_id: u64,
    pub(crate) token_id: TokenId,
    pub(crate) transaction: TxHash,
    pub(crate) block_number: Option<u64>,
}

/// Sends one call about one token and prints the outcome. `what` completes "cannot ..."; `result` is the line for people.
pub(crate) async fn change<C: SolCall>(
    settings: &Settings,
    key: &SignerArgs,
    printer: &Printer,
    token: TokenId,
    (what, result): (&str, &str),
    call: impl AsyncFnOnce(&Chain, Address) -> anyhow::Result<C>,
) -> anyhow::Result<u8> {
    let contract = settings.contract()?;
    let operator = Operator::connect(settings, key).await?;
    let call = call(&operator.chain, contract).await?;
    let done = operator.call(printer, what, contract, call).await?;
    let outcome = Outcome {
        contract,
        chain_id: operator.chain.id,
        token_id: token,
        transaction: done.hash,
        block_number: done.receipt.block_number,
    };
    printer.result(&outcome, || format!("{result}\ntransaction {}\n", done.hash))?;
    Ok(0)
}
