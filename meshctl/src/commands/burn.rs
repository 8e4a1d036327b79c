//! `meshctl burn`: destroys a token; its number is minted again later, its key epoch goes on.

use mesh_contract::DstackClusterNFT::burnCall;

use super::token::{TokenArg, take_out, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl burn 7 --dry-run")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let token = args.token.get()?;
    let words = (format!("burn token {token}"), format!("token {token} is burned: its node is out of the mesh"));
    let call = burnCall { tokenId: uint(token) };
    take_out(settings, &args.key, printer, token, words, call, |_| {
        "none: a later mint gives its number, and with it its mesh address, to another node".to_owned()
    })
    .await
}
