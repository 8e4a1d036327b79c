//! `meshctl reinstate`: lifts a revocation. The token comes back unbound.

use mesh_contract::DstackClusterNFT::reinstateCall;

use super::token::{TokenArg, change_token, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl reinstate 7")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let token = args.token.get()?;
    let words = (
        format!("reinstate token {token}"),
        format!("token {token} is reinstated: bind it again with `meshctl bind {token} --instance ID`"),
    );
    change_token(settings, &args.key, printer, token, words, reinstateCall { tokenId: uint(token) }).await
}
