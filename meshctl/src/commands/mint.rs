//! `meshctl mint`: makes a new token, bound to a CVM at once when its instance id is known.

use std::net::Ipv4Addr;

use alloy_primitives::{Address, FixedBytes, U256};
use anyhow::Context as _;
use mesh_contract::{
    DstackClusterNFT::{NodeMinted, meshNetworkCall, mintCall, mintNodeAccessCall},
    mesh_network,
};
use mesh_core::{
    id::{AppId, InstanceId, TokenId},
    registry::NodeRecord,
};
use serde::Serialize;

use super::{change::change, minting::parse_price, nodes, token::token_id};
use crate::{
    address::{parse_address, parse_app_id},
    chain::{Call, Chain, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl mint --to 0x2222222222222222222222222222222222222222 --instance 1691ed1b47506cad7d08834668691d88246f5b1f --app-id 5bb4ff9a3837357f19dc176407a5709c62eb6c56"
)]
pub(crate) struct Args {
    /// The account that owns the new token
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    to: Address,
    /// Bind it to this CVM: its dstack instance id, 40 hex digits
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Let only instances of this dstack app register for it, until it is bound anew [default: any allowed app]
    #[arg(long, value_name = "APP_ID", value_parser = parse_app_id, requires = "instance", conflicts_with = "pay")]
    app_id: Option<AppId>,
    /// Mint as any account may where minting is public, for exactly this price (see `meshctl minting`)
    #[arg(long, value_name = "ETHER", value_parser = parse_price)]
    pay: Option<U256>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Minted {
    token_id: TokenId,
    /// The mesh address of the token's node.
    address: Ipv4Addr,
    owner: Address,
    instance_id: Option<InstanceId>,
    /// The only app that may register; `null`: any that is allowed.
    app_id: Option<AppId>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    settings.refuse_published("the token's owner", args.to)?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let network = operator.chain.read(contract, meshNetworkCall {}, None).await?;
    let network = mesh_network(network.base, network.prefixLength)?;

    if let Some(instance) = args.instance
        && let Some(node) = bound_to(&operator.chain, contract, instance).await?
    {
        let token = node.token;
        let hint = match node.active {
            true => "it is a member: see `meshctl nodes --active`".to_owned(),
            false => format!("its node can register for that one; `meshctl burn {token}` frees it"),
        };
        return Err(Failure::new(format!("instance {instance} has token {token} already")).hint(hint).into());
    }
    let call = call(args, contract);
    change(&operator, printer, contract, call, |done| {
        let minted: NodeMinted = done.event(contract)?;
        let token = token_id(minted.tokenId)?;
        let address = network.address_of(token);
        let address = address.with_context(|| format!("token {token} has no address in {}", network.network()))?;
        let (instance_id, app_id) = (args.instance, args.app_id);
        let minted = Minted { token_id: token, address, owner: args.to, instance_id, app_id };
        let text = text(&minted);
        Ok((minted, text))
    })
    .await
}

/// The token that is bound to an instance, the lowest of several.
async fn bound_to(chain: &Chain, contract: Address, instance: InstanceId) -> anyhow::Result<Option<NodeRecord>> {
    let nodes = nodes::all(chain, contract).await?;
    Ok(nodes.into_iter().find(|node| node.instance == Some(instance)))
}

/// The owner's mint, or the public one with its payment.
fn call(args: &Args, contract: Address) -> Call {
    let what = format!("mint a token for {}", args.to);
    match args.pay {
        None => {
            let instance = FixedBytes(args.instance.map_or([0; 20], |instance| instance.0));
            let app_id = args.app_id.map_or(Address::ZERO, Into::into);
            Call::function(what, contract, &mintCall { to: args.to, instanceId: instance, appId: app_id })
        }
        Some(price) => {
            let instance = args.instance.map(|instance| instance.to_string()).unwrap_or_default();
            Call::function(what, contract, &mintNodeAccessCall { to: args.to, instanceId: instance }).paying(price)
        }
    }
}

fn text(minted: &Minted) -> String {
    let Minted { token_id, address, owner, .. } = minted;
    let next = match minted.instance_id {
        Some(instance) => {
            let app = minted.app_id.map_or_else(String::new, |app_id| format!(" of app {app_id}"));
            format!("bound to instance {instance}{app}")
        }
        None => format!("unbound: `meshctl bind {token_id} --instance ID --app-id ID` says which CVM it is for"),
    };
    format!("token {token_id} is minted for {owner}\naddress     {address}\n{next}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_what_to_do_with_an_unbound_token() {
        let mut minted = Minted {
            token_id: TokenId::new(7).unwrap(),
            address: Ipv4Addr::new(10, 0, 1, 7),
            owner: Address::repeat_byte(2),
            instance_id: None,
            app_id: None,
        };
        insta::assert_snapshot!("unbound", text(&minted));
        minted.instance_id = Some(InstanceId([0x11; 20]));
        insta::assert_snapshot!("bound", text(&minted));
        minted.app_id = Some(AppId([0x22; 20]));
        insta::assert_snapshot!("bound_for_an_app", text(&minted));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&minted).unwrap());
    }
}
