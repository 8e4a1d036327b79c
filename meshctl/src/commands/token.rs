//! What the commands on one token share: how it is named, and how the outcome is printed.

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use mesh_core::id::TokenId;
use serde::Serialize;

use super::change::change_cluster;
use crate::{failure::Failure, output::Printer, settings::Settings, signer::SignerArgs};

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
        self.positional.or(self.option).ok_or_else(|| Failure::usage("no token given").into())
    }
}

/// A token as the contract counts it.
pub(crate) fn uint(token: TokenId) -> U256 {
    U256::from(token.get())
}

/// A token that the contract names.
pub(crate) fn token_id(number: U256) -> anyhow::Result<TokenId> {
    let token = u32::try_from(number).ok().and_then(TokenId::new);
    token.ok_or_else(|| anyhow::anyhow!("the contract names token {number}, which no node can have"))
}

#[derive(Debug, Serialize)]
struct Subject {
    token_id: TokenId,
}

/// Sends one call about one token. `what` completes "cannot ..."; `result` is the line for people.
pub(crate) async fn change_token(
    settings: &Settings,
    key: &SignerArgs,
    printer: &Printer,
    token: TokenId,
    (what, result): (String, String),
    call: impl SolCall,
) -> anyhow::Result<u8> {
    change_cluster(settings, key, printer, what, call, (Subject { token_id: token }, result)).await
}
