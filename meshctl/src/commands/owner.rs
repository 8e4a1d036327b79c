//! `meshctl owner`: the account that governs the cluster. Ownership is handed over in two steps, so that it cannot be lost to a wrong address.

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{acceptOwnershipCall, ownerCall, pendingOwnerCall, transferOwnershipCall};
use serde::Serialize;

use super::{change::change, leaving::nothing_to_do};
use crate::{
    address::parse_address,
    chain::{Call, Chain, Operator},
    confirm::Consequences,
    failure::Failure,
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
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
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
        Some(Verb::Offer(OfferArgs { to, key })) => offer(*to, key, settings, printer).await,
        Some(Verb::Accept(AcceptArgs { key })) => {
            let (operator, contract) = Operator::of_cluster(settings, key).await?;
            let owner = operator.address;
            let pending = operator.chain.read(contract, pendingOwnerCall {}, None).await?;
            if pending != owner {
                return Err(not_offered(owner, pending).into());
            }
            let call = Call::function("accept the contract", contract, &acceptOwnershipCall {});
            change(&operator, printer, contract, call, |_| {
                Ok((Accepted { owner }, format!("{owner} is the contract's owner")))
            })
            .await
        }
    }
}

/// The contract's own refusal names no account.
fn not_offered(account: Address, pending: Address) -> Failure {
    let failure = Failure::new(format!("the contract is not offered to {account}"));
    if pending.is_zero() {
        return failure.hint("nothing is offered: its owner does that with `meshctl owner offer ADDRESS`");
    }
    failure.hint(format!("send it from the key of the account that it is offered to: {pending}"))
}

async fn offer(to: Address, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    settings.refuse_published("the contract's owner", to)?;
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let at = Some(operator.chain.head().await?);
    let owner = operator.chain.read(contract, ownerCall {}, at).await?;
    let pending = operator.chain.read(contract, pendingOwnerCall {}, at).await?;
    let nothing = match to {
        to if to == owner => Some(format!("{to} is the contract's owner already")),
        to if to.is_zero() && pending.is_zero() => Some("there is no offer to take back".to_owned()),
        to if to == pending => Some(format!("the contract is offered to {to} already")),
        _ => None,
    };
    if let Some(nothing) = nothing {
        return Err(nothing_to_do(nothing, "meshctl owner").into());
    }
    let pending_owner = (!to.is_zero()).then_some(to);
    let call = Call::function(format!("offer the contract to {to}"), contract, &transferOwnershipCall { newOwner: to });
    let (call, text) = match pending_owner {
        Some(to) => {
            let consequences = Consequences::new(
                format!(
                    "{to} can make itself the owner, and then mint, revoke and replace the contract's code; you cannot"
                ),
                format!("until it accepts: `meshctl owner offer {}`; none after that", Address::ZERO),
            );
            let text = format!("{to} becomes the owner when it accepts: `meshctl owner accept`");
            (call.after_asking(consequences), text)
        }
        None => (call, "the offer is taken back".to_owned()),
    };
    change(&operator, printer, contract, call, |_| Ok((Offered { pending_owner }, text))).await
}

async fn show(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
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
