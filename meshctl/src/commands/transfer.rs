//! `meshctl transfer`: gives a token to somebody else, by the safe transfer of ERC-721. The contract drops the peer and
//! clears the binding in the same transaction.

use alloy::primitives::Address;
use mesh_contract::DstackClusterNFT::{ownerOfCall, safeTransferFrom_0Call};

use super::token::{TokenArg, change, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    /// The new owner
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (token, to) = (args.token.get()?, args.to);
    let what = format!("transfer token {token} to {to}");
    let result = format!("token {token} belongs to {to} now: its node is out of the mesh until the new owner binds it");
    change(settings, &args.key, printer, token, (&what, &result), async |chain, contract| {
        let from = chain.read(contract, ownerOfCall { tokenId: uint(token) }, None).await?;
        Ok(safeTransferFrom_0Call { from, to, tokenId: uint(token) })
    })
    .await
}
