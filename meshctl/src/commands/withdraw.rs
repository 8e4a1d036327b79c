//! `meshctl withdraw`: takes out of the contract what was paid for tokens.

use alloy_primitives::Address;
use mesh_chain::fees::ether;
use mesh_contract::DstackClusterNFT::{Withdrawn, withdrawCall};
use serde::Serialize;

use super::change::change;
use crate::{
    chain::{Call, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl withdraw --to 0x2222222222222222222222222222222222222222")]
pub(crate) struct Args {
    /// The account that gets it
    #[arg(long, value_name = "ADDRESS")]
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
    let contract = settings.contract()?;
    let operator = Operator::connect(settings, &args.key).await?;
    let call = Call::function(format!("withdraw to {}", args.to), contract, &withdrawCall { to: args.to });
    change(&operator, printer, contract, call, |done| {
        let Withdrawn { to, amount } = done.event(contract)?;
        Ok((Paid { to, amount: amount.to_string() }, format!("{} ether went to {to}", ether(amount))))
    })
    .await
}
