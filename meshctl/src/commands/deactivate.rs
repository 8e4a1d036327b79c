//! `meshctl deactivate`: drops the peer and clears the binding of one's own token.

use mesh_contract::DstackClusterNFT::deactivateCall;

use super::token::{TokenArg, change, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let token = args.token.get()?;
    let words =
        (&*format!("deactivate token {token}"), &*format!("token {token} is deactivated: its node is out of the mesh"));
    change(settings, &args.key, printer, token, words, async |_, _| Ok(deactivateCall { tokenId: uint(token) })).await
}
