//! What the commands on one token share: how it is named, and how the outcome is printed.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use mesh_contract::DstackClusterNFT::getNodeCall;
use mesh_core::{id::TokenId, registry::NodeRecord};
use serde::Serialize;

use super::{
    change::{change, change_cluster},
    leaving,
};
use crate::{
    chain::{Call, Chain, Operator},
    confirm::Consequences,
    failure::Failure,
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

/// What a change of a token was about, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Subject {
    pub(super) token_id: TokenId,
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

/// The same for a call that takes the token's node out of the mesh: the operator is asked first. `way_back` says what undoes it, by the
/// instance id that the token is bound to.
pub(crate) async fn take_out(
    settings: &Settings,
    key: &SignerArgs,
    printer: &Printer,
    token: TokenId,
    (what, result): (String, String),
    call: impl SolCall,
    way_back: impl FnOnce(&str) -> String,
) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let consequences = leaves(&operator.chain, contract, token, way_back).await?;
    let call = Call::function(what, contract, &call).after_asking(consequences);
    change(&operator, printer, contract, call, |_| Ok((Subject { token_id: token }, result))).await
}

/// What the operator is asked where a token's node leaves.
pub(super) async fn leaves(
    chain: &Chain,
    contract: Address,
    token: TokenId,
    way_back: impl FnOnce(&str) -> String,
) -> anyhow::Result<Consequences> {
    let node = NodeRecord::try_from(chain.read(contract, getNodeCall { tokenId: uint(token) }, None).await?)?;
    let instance = node.instance.map_or_else(|| "ID".to_owned(), |instance| instance.to_string());
    let effect = match (node.active, node.instance) {
        (true, _) => format!("the node of token {token} is cut off by every peer"),
        (false, Some(instance)) => {
            format!("token {token} is not for instance {instance} any more, which is no peer now")
        }
        (false, None) => format!("token {token} is bound to no instance: no peer leaves"),
    };
    leaving::consequences(chain, contract, |peer| peer.token == token, (effect, way_back(&instance))).await
}
