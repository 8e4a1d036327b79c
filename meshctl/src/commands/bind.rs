//! `meshctl bind`: says which CVM a token is for, and of which app. Lets go of the member key that an earlier binding was for.

use alloy_primitives::{Address, FixedBytes};
use mesh_contract::DstackClusterNFT::bindCall;
use mesh_core::id::{AppId, InstanceId};

use super::token::{TokenArg, change_token, uint};
use crate::{address::parse_app_id, output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl bind 7 --instance 1691ed1b47506cad7d08834668691d88246f5b1f --app-id 5bb4ff9a3837357f19dc176407a5709c62eb6c56"
)]
pub(crate) struct Args {
    #[command(flatten)]
    token: TokenArg,
    /// The CVM's dstack instance id, 40 hex digits
    #[arg(long, value_name = "ID")]
    instance: InstanceId,
    /// Let only instances of this dstack app register for it, until it is bound anew [default: any allowed app]
    #[arg(long, value_name = "APP_ID", value_parser = parse_app_id)]
    app_id: Option<AppId>,
    #[command(flatten)]
    key: SignerArgs,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (token, instance) = (args.token.get()?, args.instance);
    let app_id = args.app_id.map_or(Address::ZERO, Into::into);
    let call = bindCall { tokenId: uint(token), instanceId: FixedBytes(instance.0), appId: app_id };
    let app = args.app_id.map_or_else(String::new, |app_id| format!(" of app {app_id}"));
    let what = format!("bind token {token} to instance {instance}{app}");
    let result = format!("token {token} is bound to instance {instance}{app}: the node there may register now");
    change_token(settings, &args.key, printer, token, (what, result), call).await
}
