//! `meshctl withdraw`: takes out of the contract what was paid for tokens.

use alloy_primitives::Address;
use mesh_chain::fees::ether;
use mesh_contract::DstackClusterNFT::{Withdrawn, withdrawCall};
use serde::Serialize;

use super::change::change;
use crate::{
    address::parse_address,
    chain::{Call, Operator},
    confirm::Consequences,
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl withdraw --to 0x2222222222222222222222222222222222222222")]
pub(crate) struct Args {
    /// The account that gets it
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    to: Address,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Paid {
    to: Address,
    /// Wei, in decimal.
    amount: String,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    settings.refuse_published("paid", args.to)?;
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let amount = operator.chain.balance(contract).await?;
    if amount.is_zero() {
        return Err(Failure::new("nothing was paid that could be taken out: the contract has 0 ether")
            .hint("see `meshctl minting` for who pays, and how much")
            .into());
    }
    let call = Call::function(format!("withdraw to {}", args.to), contract, &withdrawCall { to: args.to });
    let effect = format!("{} ether, all that the contract has, goes to {}", ether(amount), args.to);
    let call = call.after_asking(Consequences::new(effect, "none: only that account can send it back"));
    change(&operator, printer, contract, call, |done| {
        let Withdrawn { to, amount } = done.event(contract)?;
        Ok((Paid { to, amount: amount.to_string() }, format!("{} ether went to {to}", ether(amount))))
    })
    .await
}
