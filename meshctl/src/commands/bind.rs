//! `meshctl bind`: says which CVM a token is for, and of which app. Lets go of the member key that an earlier binding was for.

use alloy_primitives::{Address, FixedBytes};
use mesh_contract::DstackClusterNFT::{bindCall, getNodeCall};
use mesh_core::{
    id::{AppId, InstanceId},
    registry::NodeRecord,
};

use super::{
    change::change,
    token::{Subject, TokenArg, uint},
};
use crate::{
    address::parse_app_id,
    chain::{Call, Operator},
    confirm::Consequences,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

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
    let app = args.app_id.map_or_else(String::new, |app_id| format!(" of app {app_id}"));
    let what = format!("bind token {token} to instance {instance}{app}");
    let text = format!("token {token} is bound to instance {instance}{app}: the node there may register now");
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let node = NodeRecord::try_from(operator.chain.read(contract, getNodeCall { tokenId: uint(token) }, None).await?)?;
    let call = bindCall { tokenId: uint(token), instanceId: FixedBytes(instance.0), appId: app_id };
    let call = Call::function(what, contract, &call).after_asking(another_instance(&node, instance));
    change(&operator, printer, contract, call, |_| Ok((Subject { token_id: token }, text))).await
}

/// What the operator is asked where the token is for another instance until now. The contract binds no token whose node is a peer.
fn another_instance(node: &NodeRecord, instance: InstanceId) -> Option<Consequences> {
    let old_instance = node.instance.filter(|old_instance| *old_instance != instance && !node.active)?;
    let token = node.token;
    let way_back = match node.bound_app_id {
        Some(app_id) => format!("`meshctl bind {token} --instance {old_instance} --app-id {app_id}`, at once"),
        None => format!("`meshctl bind {token} --instance {old_instance}`, at once"),
    };
    Some(Consequences::new(
        format!("token {token} is not for instance {old_instance} any more, whose node cannot register with it again"),
        way_back,
    ))
}
