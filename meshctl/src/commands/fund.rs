//! `meshctl fund`: gives a node's own address ether, from which it pays for its transactions.

use alloy_primitives::{Address, TxHash, U256};
use mesh_chain::fees::ether;
use mesh_contract::DstackClusterNFT::getNodeCall;
use mesh_core::{id::TokenId, registry::NodeRecord, wei::Wei};
use serde::Serialize;

use super::{change::dry_run, minting::parse_price, token::uint};
use crate::{
    address::parse_address,
    agent_socket::AgentSocket,
    chain::{Call, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl fund 0.05 --token 7")]
pub(crate) struct Args {
    /// How much is sent
    #[arg(value_name = "ETHER", value_parser = parse_price)]
    amount: U256,
    /// The node of this token, which has registered before [default: the node of the agent at --socket]
    #[arg(long, value_name = "TOKEN", conflicts_with = "to")]
    token: Option<TokenId>,
    /// The node's member address, from its log or its status
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    to: Option<Address>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Funded {
    chain_id: u64,
    to: Address,
    amount: Wei,
    /// What it has now.
    balance: Wei,
    transaction: TxHash,
    block_number: Option<u64>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    if args.amount.is_zero() {
        return Err(Failure::usage("nothing would be sent").hint("give an amount of ether such as 0.05").into());
    }
    if let Some(to) = args.to {
        settings.refuse_published("paid", to)?;
    }
    let operator = Operator::connect(settings, &args.key).await?;
    let to = match (args.to, args.token) {
        (Some(to), _) => to,
        (None, Some(token)) => registered(&operator, settings.contract()?, token).await?,
        (None, None) => of_agent(&operator, settings).await?,
    };
    let call = Call::payment(format!("give node {to} {} ether", ether(args.amount)), to, args.amount);
    if operator.is_dry_run() {
        return dry_run(&operator, printer, vec![call.into()]).await;
    }
    let done = operator.send(printer, &call).await?;
    let balance = operator.chain.balance(to).await?;
    let funded = Funded {
        chain_id: operator.chain.id,
        to,
        amount: Wei(args.amount),
        balance: Wei(balance),
        transaction: done.hash,
        block_number: done.receipt.block_number,
    };
    printer.result(&funded, || {
        let (sent, has) = (ether(args.amount), ether(balance));
        format!("{sent} ether went to {to}, which has {has} now\ntransaction {}\n", done.hash)
    })?;
    Ok(0)
}

/// The member address that the contract has for a token.
async fn registered(operator: &Operator, contract: Address, token: TokenId) -> anyhow::Result<Address> {
    operator.chain.require_cluster(contract).await?;
    let node: NodeRecord =
        operator.chain.read(contract, getNodeCall { tokenId: uint(token) }, None).await?.try_into()?;
    node.member_address.ok_or_else(|| {
        Failure::new(format!(
            "the contract does not know the address of token {token}'s node, which has not registered"
        ))
        .hint("run this on the node, or give the address that its log and its status name with `--to ADDRESS`")
        .into()
    })
}

/// The member address of the node whose agent answers at the socket.
async fn of_agent(operator: &Operator, settings: &Settings) -> anyhow::Result<Address> {
    let status = AgentSocket::new(settings.socket()?).status().await?;
    if let Some(chain) = status.registry.chain_id.filter(|chain| *chain != operator.chain.id) {
        let what = format!("the agent's chain is {chain}, but `--rpc-url` leads to chain {}", operator.chain.id);
        return Err(Failure::new(what).hint("give an endpoint of the agent's chain").into());
    }
    if let Some(contract) = settings.given_contract().filter(|contract| *contract != status.registry.contract) {
        let what = format!("the agent here follows contract {}, not {contract}", status.registry.contract);
        return Err(Failure::new(what)
            .hint("name the agent of the node that you mean with `--socket PATH`, or the node with `--token TOKEN`")
            .into());
    }
    Ok(status.own.member_address)
}
