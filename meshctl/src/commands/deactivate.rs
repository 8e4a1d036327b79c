//! `meshctl deactivate`: drops the peer and clears the binding of one's own token.

use mesh_contract::DstackClusterNFT::deactivateCall;

use super::token::{TokenArg, take_out, uint};
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
    let call = deactivateCall { tokenId: uint(token) };
    take_out(settings, &args.key, printer, token, words, call, |instance| {
        format!("`meshctl bind {token} --instance {instance}`: the node registers again within seconds")
    })
    .await
}
