//! `meshctl owner`: the account that governs the cluster. Ownership is handed over in two steps, so that it cannot be lost to a wrong address.

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{acceptOwnershipCall, ownerCall, pendingOwnerCall, transferOwnershipCall};
use serde::Serialize;

use super::change::{change, change_cluster};
use crate::{
    chain::{Call, Chain, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl owner offer 0x2222222222222222222222222222222222222222")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the contract's owner, and whom it offered the contract to (default)
    Show,
    /// Offer the contract to an account, which becomes its owner by accepting (contract owner)
    Offer(OfferArgs),
    /// Accept the contract (whom it was offered to)
    Accept(AcceptArgs),
}

#[derive(Debug, clap::Args)]
struct OfferArgs {
    /// The next owner; the zero address takes an offer back
    #[arg(value_name = "ADDRESS")]
    to: Address,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, clap::Args)]
struct AcceptArgs {
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Shown {
    contract: Address,
    chain_id: u64,
    owner: Address,
    pending_owner: Option<Address>,
}

#[derive(Debug, Serialize)]
struct Offered {
    pending_owner: Option<Address>,
}

#[derive(Debug, Serialize)]
struct Accepted {
    owner: Address,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        None | Some(Verb::Show) => show(settings, printer).await,
        Some(Verb::Offer(OfferArgs { to, key })) => {
            let to = *to;
            settings.refuse_published("the contract's owner", to)?;
            let pending_owner = (!to.is_zero()).then_some(to);
            let text = match pending_owner {
                Some(to) => format!("{to} becomes the owner when it accepts: `meshctl owner accept`"),
                None => "the offer is taken back".to_owned(),
            };
            let call = transferOwnershipCall { newOwner: to };
            let what = format!("offer the contract to {to}");
            change_cluster(settings, key, printer, what, call, (Offered { pending_owner }, text)).await
        }
        Some(Verb::Accept(AcceptArgs { key })) => {
            let contract = settings.contract()?;
            let operator = Operator::connect(settings, key).await?;
            let owner = operator.address;
            let call = Call::function("accept the contract", contract, &acceptOwnershipCall {});
            change(&operator, printer, contract, call, |_| {
                Ok((Accepted { owner }, format!("{owner} is the contract's owner")))
            })
            .await
        }
    }
}

async fn show(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let contract = settings.contract()?;
    let chain = Chain::connect(settings).await?;
    let at = Some(chain.head().await?);
    let owner = chain.read(contract, ownerCall {}, at).await?;
    let pending = chain.read(contract, pendingOwnerCall {}, at).await?;
    let pending_owner = (!pending.is_zero()).then_some(pending);
    printer.result(&Shown { contract, chain_id: chain.id, owner, pending_owner }, || {
        let next = pending_owner.map_or_else(|| "-".to_owned(), |pending| format!("{pending}, once it accepts"));
        format!("owner       {owner}\nnext owner  {next}\n")
    })?;
    Ok(0)
}
