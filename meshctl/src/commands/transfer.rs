//! `meshctl transfer`: gives a token to another account, by the safe transfer of ERC-721. The contract drops the peer and
//! clears the binding in the same transaction.

use alloy_primitives::Address;
use mesh_contract::DstackClusterNFT::{ownerOfCall, safeTransferFrom_0Call};
use mesh_core::id::TokenId;
use serde::Serialize;

use super::{
    change::change,
    leaving::nothing_to_do,
    token::{TokenArg, leaves, uint},
};
use crate::{
    address::parse_address,
    chain::{Call, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl transfer 7 --to 0x2222222222222222222222222222222222222222")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    /// The new owner
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    to: Address,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Transferred {
    token_id: TokenId,
    from: Address,
    to: Address,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (token, to) = (args.token.get()?, args.to);
    settings.refuse_published("the token's owner", to)?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let from = operator.chain.read(contract, ownerOfCall { tokenId: uint(token) }, None).await?;
    if from == to {
        return Err(nothing_to_do(format!("token {token} belongs to {to} already"), "meshctl nodes").into());
    }
    let way_back = |_: &str| format!("none of yours: {to} decides what becomes of the token");
    let consequences = leaves(&operator.chain, contract, token, way_back).await?;
    let call = safeTransferFrom_0Call { from, to, tokenId: uint(token) };
    let call = Call::function(format!("transfer token {token} to {to}"), contract, &call).after_asking(consequences);
    change(&operator, printer, contract, call, |_| {
        let text =
            format!("token {token} went from {from} to {to}: its node is out of the mesh until the new owner binds it");
        Ok((Transferred { token_id: token, from, to }, text))
    })
    .await
}
