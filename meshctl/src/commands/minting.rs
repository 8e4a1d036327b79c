//! `meshctl minting`: who may mint, and for how much.

use alloy_primitives::{Address, U256, utils::parse_ether};
use clap::{Subcommand, ValueEnum};
use mesh_chain::fees::ether;
use mesh_contract::DstackClusterNFT::{clusterConfigCall, setMintingPolicyCall};
use serde::Serialize;

use super::{change::change, leaving::nothing_to_do};
use crate::{
    chain::{Call, Chain, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl minting set --open-to anybody --price 0.01")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show who may mint, and the price (default)
    Show,
    /// Set who may mint, and the price (contract owner)
    Set(SetArgs),
}

#[derive(Debug, clap::Args)]
#[group(id = "change", required = true, multiple = true, args = ["price", "open_to"])]
struct SetArgs {
    /// What a token costs any account but the contract's owner
    #[arg(long, value_name = "ETHER", value_parser = parse_price)]
    price: Option<U256>,
    /// Who may mint
    #[arg(long, value_name = "WHO")]
    open_to: Option<Minters>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Minters {
    /// The contract's owner alone, free of charge
    Owner,
    /// Any account that pays the price
    Anybody,
}

impl Minters {
    const fn new(public: bool) -> Self {
        if public { Self::Anybody } else { Self::Owner }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Anybody => "anybody",
        }
    }
}

#[derive(Debug, Serialize)]
struct Policy {
    /// Wei, in decimal.
    mint_price: String,
    public_minting: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    contract: Address,
    chain_id: u64,
    #[serde(flatten)]
    policy: Policy,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        None | Some(Verb::Show) => show(settings, printer).await,
        Some(Verb::Set(args)) => set(args, settings, printer).await,
    }
}

async fn show(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let config = chain.read(contract, clusterConfigCall {}, None).await?;
    let policy = Policy { mint_price: config.mintPrice.to_string(), public_minting: config.publicMinting };
    printer.result(&Shown { contract, chain_id: chain.id, policy }, || {
        let who = Minters::new(config.publicMinting).word();
        format!("minting is open to  {who}\nprice               {} ether\n", ether(config.mintPrice))
    })?;
    Ok(0)
}

/// The contract takes both at once: what is not given stays as it is.
async fn set(args: &SetArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let before = operator.chain.read(contract, clusterConfigCall {}, None).await?;
    let (price_before, minters_before) = (before.mintPrice, Minters::new(before.publicMinting));
    let price = args.price.unwrap_or(price_before);
    let minters = args.open_to.unwrap_or(minters_before);
    if price == price_before && minters == minters_before {
        return Err(nothing_to_do("minting is so already", "meshctl minting").into());
    }
    let public = minters == Minters::Anybody;
    let call = setMintingPolicyCall { price, toAnybody: public };
    let what = format!("open minting to {} for {} ether", minters.word(), ether(price));
    change(&operator, printer, contract, Call::function(what, contract, &call), |_| {
        let text = format!(
            "minting is open to  {} -> {}\nprice               {} -> {} ether",
            minters_before.word(),
            minters.word(),
            ether(price_before),
            ether(price)
        );
        Ok((Policy { mint_price: price.to_string(), public_minting: public }, text))
    })
    .await
}

/// Ether in decimal, to 18 places.
pub(super) fn parse_price(text: &str) -> Result<U256, String> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(fraction) || fraction.len() > 18 {
        return Err("not an amount of ether such as 0.01".to_owned());
    }
    parse_ether(text).map_err(|error| error.to_string())
}

/// An amount that is sent: more than nothing.
pub(super) fn parse_amount(text: &str) -> Result<U256, String> {
    let amount = parse_price(text)?;
    if amount.is_zero() {
        Err("nothing would be sent: give an amount of ether such as 0.05".to_owned())
    } else {
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_ether() {
        assert_eq!(parse_price("0.01").unwrap(), U256::from(10_000_000_000_000_000_u64));
        assert!(parse_price("0").is_ok() && parse_amount("0.0").unwrap_err().contains("nothing would be sent"));
        assert_eq!(parse_price("0").unwrap(), U256::ZERO);
        for wrong in ["", ".", ".5", "1.", "1.2.3", "-1", "1e18", "0x10", "1,5", "0.0000000000000000001"] {
            assert!(parse_price(wrong).is_err(), "{wrong}: {:?}", parse_price(wrong));
        }
    }
}
