//! `meshctl revoke`: drops the peer, clears the binding and bars the token until `reinstate`.

use mesh_contract::DstackClusterNFT::revokeCall;

use super::token::{TokenArg, take_out, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl revoke 7 --dry-run")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let token = args.token.get()?;
    let words = (
        format!("revoke token {token}"),
        format!(
            "token {token} is revoked: its node is out of the mesh and stays out until `meshctl reinstate {token}`"
        ),
    );
    let call = revokeCall { tokenId: uint(token) };
    take_out(settings, &args.key, printer, token, words, call, |instance| {
        format!(
            "`meshctl reinstate {token}`, then its owner's `meshctl bind {token} --instance {instance}`: the node registers \
             again within seconds"
        )
    })
    .await
}
