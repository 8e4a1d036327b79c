//! `meshctl mint`: makes a new token, bound to a CVM at once when its instance id is known.

use std::{net::Ipv4Addr, time::Duration};

use alloy_primitives::{Address, FixedBytes, TxHash, U256};
use anyhow::Context as _;
use mesh_chain::fees::ether;
use mesh_contract::{
    DstackClusterNFT::{NodeMinted, meshNetworkCall, mintCall, mintNodeAccessCall},
    mesh_network,
};
use mesh_core::{
    id::{AppId, InstanceId, TokenId},
    registry::NodeRecord,
    wei::Wei,
};
use serde::Serialize;

use super::{
    change::{change, dry_run},
    join::{self, Wanted},
    minting::{parse_amount, parse_price},
    nodes,
    token::token_id,
};
use crate::{
    address::{parse_address, parse_app_id},
    chain::{Call, Chain, Done, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::{SignerArgs, seconds},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl mint --to 0x2222222222222222222222222222222222222222 --instance 1691ed1b47506cad7d08834668691d88246f5b1f --app-id 5bb4ff9a3837357f19dc176407a5709c62eb6c56"
)]
pub(crate) struct Args {
    /// The account that owns the new token [default: the one whose key it is]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    to: Option<Address>,
    /// Bind it to this CVM: its dstack instance id, 40 hex digits
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Let only instances of this dstack app register for it, until it is bound anew [default: any allowed app]
    #[arg(long, value_name = "APP_ID", value_parser = parse_app_id, requires = "instance", conflicts_with = "pay")]
    app_id: Option<AppId>,
    /// Mint as any account may where minting is public, for exactly this price (see `meshctl minting`)
    #[arg(long, value_name = "ETHER", value_parser = parse_price)]
    pay: Option<U256>,
    /// Then submit the registration that the node's agent (at --socket) signs, wait until the node is a member
    #[arg(long, requires = "instance")]
    relay: bool,
    /// Then send the node's own address what it lacks of this, wait until the node is a member
    #[arg(long, value_name = "ETHER", requires = "instance", value_parser = parse_amount)]
    fund: Option<U256>,
    /// With --relay or --fund: give up waiting after this long; the same command goes on from there
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    key: SignerArgs,
}

/// A node that is a member.
#[derive(Debug, Serialize)]
struct Member {
    contract: Address,
    chain_id: u64,
    token_id: TokenId,
    /// The mesh address.
    address: Option<Ipv4Addr>,
    instance_id: InstanceId,
    member_address: Option<Address>,
    state: &'static str,
    /// In this run; `false`: the token was there.
    minted: bool,
    /// What was sent in this run, wei in decimal.
    funded: Option<Wei>,
    transactions: Vec<TxHash>,
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
    if let Some(to) = args.to {
        settings.refuse_published("the token's owner", to)?;
    }
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let owner = args.to.unwrap_or(operator.address);
    settings.refuse_published("the token's owner", owner)?;
    let network = operator.chain.read(contract, meshNetworkCall {}, None).await?;
    let network = mesh_network(network.base, network.prefixLength)?;

    if args.instance.is_some() && !operator.is_dry_run() {
        operator.settle(printer).await?;
    }
    let (known, foreign) = match args.instance {
        Some(instance) => bound_to(&operator.chain, contract, instance, [owner, operator.address]).await?,
        None => (None, None),
    };
    // Where minting is public, any account can have a token bound to any instance. Nothing is done for that one.
    if let Some(foreign) = foreign {
        printer.note(foreign_words(&foreign, owner));
    }
    if let Some((node, app_id)) =
        known.as_ref().zip(args.app_id).filter(|(node, app_id)| node.bound_app_id != Some(*app_id))
    {
        return Err(other_app(node, app_id).into());
    }
    if let Some(node) = known.as_ref().filter(|node| node.owner != Some(owner)) {
        return Err(minted_before(node).into());
    }
    let Some(instance) = args.instance.filter(|_| args.relay || args.fund.is_some()) else {
        if let Some(node) = known {
            return Err(minted_before(&node).into());
        }
        return change(&operator, printer, contract, call(args, owner, contract), |done| {
            let token = minted(done, contract)?;
            let address = network.address_of(token);
            let address = address.with_context(|| format!("token {token} has no address in {}", network.network()))?;
            let minted = Minted { token_id: token, address, owner, instance_id: args.instance, app_id: args.app_id };
            let text = text(&minted);
            Ok((minted, text))
        })
        .await;
    };
    if operator.is_dry_run() {
        let mut calls = if known.is_some() { Vec::new() } else { vec![call(args, owner, contract).into()] };
        let steps = (instance, args.fund, args.relay);
        calls.extend(join::plan(&operator, settings, printer, contract, known.as_ref(), steps).await?);
        return dry_run(&operator, printer, calls).await;
    }
    let mut transactions = Vec::new();
    let token = match &known {
        Some(node) => {
            printer.note(format!("token {}: is bound to instance {instance} already", node.token));
            node.token
        }
        None => {
            // Before anything is spent: the agent that answers, if there is one, is this node's.
            let _ = join::agent(&operator, settings, contract, instance).await?;
            let done = operator.send(printer, &call(args, owner, contract)).await?;
            transactions.push(done.hash);
            minted(&done, contract)?
        }
    };
    let timeout = Duration::from_secs(args.timeout);
    let wanted = Wanted { token, instance, fund: args.fund, relay: args.relay, timeout };
    let joined = join::join(&operator, settings, printer, contract, wanted).await?;
    transactions.extend(joined.transactions);
    let member = Member {
        contract,
        chain_id: operator.chain.id,
        token_id: token,
        address: network.address_of(token),
        instance_id: instance,
        member_address: joined.member_address,
        state: "active",
        minted: known.is_none(),
        funded: joined.funded.map(Wei),
        transactions,
    };
    printer.result(&member, || member_text(&member))?;
    Ok(0)
}

fn minted(done: &Done, contract: Address) -> anyhow::Result<TokenId> {
    let minted: NodeMinted = done.event(contract)?;
    token_id(minted.tokenId)
}

fn minted_before(node: &NodeRecord) -> Failure {
    let token = node.token;
    let instance = node.instance.map_or_else(|| "?".to_owned(), |instance| instance.to_string());
    let hint = match node.active {
        true => "it is a member: see `meshctl nodes --active`".to_owned(),
        false => format!("`--relay` or `--fund` go on with that one; `meshctl burn {token}` frees it"),
    };
    Failure::new(format!("instance {instance} has token {token} already")).hint(hint)
}

fn member_text(member: &Member) -> String {
    let address = |address: Option<String>| address.unwrap_or_else(|| "-".to_owned());
    let mut text = format!(
        "token {} is a member\naddress         {}\ninstance        {}\nmember address  {}\n",
        member.token_id,
        address(member.address.map(|address| address.to_string())),
        member.instance_id,
        address(member.member_address.map(|address| address.to_string())),
    );
    if let Some(funded) = member.funded {
        text.push_str(&format!("funded with     {} ether\n", ether(funded.0)));
    }
    let transactions = member.transactions.iter().map(|hash| format!("transaction     {hash}\n"));
    text + &transactions.collect::<String>()
}

/// The token of one of these owners which is bound to an instance, and one of another owner: the lowest of several.
async fn bound_to(
    chain: &Chain,
    contract: Address,
    instance: InstanceId,
    own: [Address; 2],
) -> anyhow::Result<(Option<NodeRecord>, Option<NodeRecord>)> {
    let nodes = nodes::all(chain, contract).await?.into_iter();
    let (mut own, mut foreign): (Vec<_>, Vec<_>) = nodes
        .filter(|node| node.instance == Some(instance))
        .partition(|node| node.owner.is_some_and(|owner| own.contains(&owner)));
    let first = |nodes: &mut Vec<NodeRecord>| if nodes.is_empty() { None } else { Some(nodes.remove(0)) };
    Ok((first(&mut own), first(&mut foreign)))
}

fn foreign_words(node: &NodeRecord, owner: Address) -> String {
    let holder = node.owner.map_or_else(|| "?".to_owned(), |holder| holder.to_string());
    format!(
        "token {} of {holder} is bound to this instance, too: start the agent with `--token` and the number of the one of {owner}",
        node.token
    )
}

fn other_app(node: &NodeRecord, app_id: AppId) -> Failure {
    let token = node.token;
    let instance = node.instance.map_or_else(|| "ID".to_owned(), |instance| instance.to_string());
    let now = node.bound_app_id.map_or_else(|| "for any allowed app".to_owned(), |app| format!("for app {app}"));
    Failure::new(format!("token {token} is bound to this instance {now}, not for app {app_id}"))
        .hint(format!("meshctl bind {token} --instance {instance} --app-id {app_id}"))
}

/// The owner's mint, or the public one with its payment.
fn call(args: &Args, owner: Address, contract: Address) -> Call {
    let what = format!("mint a token for {owner}");
    match args.pay {
        None => {
            let instance = FixedBytes(args.instance.map_or([0; 20], |instance| instance.0));
            let app_id = args.app_id.map_or(Address::ZERO, Into::into);
            Call::function(what, contract, &mintCall { to: owner, instanceId: instance, appId: app_id })
        }
        Some(price) => {
            let instance = args.instance.map(|instance| instance.to_string()).unwrap_or_default();
            Call::function(what, contract, &mintNodeAccessCall { to: owner, instanceId: instance }).paying(price)
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
