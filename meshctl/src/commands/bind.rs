//! `meshctl bind`: says which CVM a token is for. Clears the node address that an earlier registration fixed.

use alloy::primitives::FixedBytes;
use mesh_contract::DstackClusterNFT::bindCall;
use mesh_core::id::InstanceId;

use super::token::{TokenArg, change_token, uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl bind 7 --instance 1691ed1b47506cad7d08834668691d88246f5b1f")]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    /// The CVM's dstack instance id, 40 hex digits
    #[arg(long, value_name = "ID")]
    instance: InstanceId,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (token, instance) = (args.token.get()?, args.instance);
    let call = bindCall { tokenId: uint(token), instanceId: FixedBytes(instance.0) };
    let what = format!("bind token {token} to instance {instance}");
    let result = format!("token {token} is bound to instance {instance}: the node there may register now");
    change_token(settings, &args.key, printer, token, (what, result), call).await
}
