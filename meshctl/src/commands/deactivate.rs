//! `meshctl deactivate`: drops the peer and clears the binding of one's own token.

use mesh_contract::DstackClusterNFT::deactivateCall;

use super::token::{TokenArg, change_token, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl deactivate 7")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let token = args.token.get()?;
    let words =
        (format!("deactivate token {token}"), format!("token {token} is deactivated: its node is out of the mesh"));
    change_token(settings, &args.key, printer, token, words, deactivateCall { tokenId: uint(token) }).await
}
