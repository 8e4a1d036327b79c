//! `meshctl compose`: which app-compose.json may boot, by compose hash. The boot gate is asked by dstack's KMS.

mod hash;

use alloy_primitives::B256;
use alloy_sol_types::SolEvent as _;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{
    ComposeHashAdded, addComposeHashCall, allowedComposeHashesCall, removeComposeHashCall,
};
use serde::Serialize;

use super::{
    boot_list::{self, ListArgs},
    change::change,
    leaving::nothing_to_do,
};
use crate::{
    chain::{Call, Operator},
    confirm::Consequences,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl compose add 0xc143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let CVMs of this app-compose.json boot (contract owner)
    Add(HashArgs),
    /// Stop the next boot of this app-compose.json; a node that has booted keeps its keys and its place (contract owner)
    Remove(HashArgs),
    /// List the compose hashes that were added, and whether they are still allowed
    List(ListArgs),
    /// Calculate the compose hash of an app-compose.json
    Hash(hash::Args),
}

#[derive(Debug, clap::Args)]
struct HashArgs {
    /// SHA-256 of app-compose.json, 64 hex digits (`meshctl compose hash`)
    #[arg(value_name = "HASH")]
    compose_hash: B256,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    compose_hash: B256,
    allowed: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(HashArgs { compose_hash, key }) => add(*compose_hash, key, settings, printer).await,
        Verb::Remove(HashArgs { compose_hash, key }) => remove(*compose_hash, key, settings, printer).await,
        Verb::List(args) => {
            let allowed = |hash| allowedComposeHashesCall { composeHash: hash };
            boot_list::list(args, settings, printer, "COMPOSE HASH", ComposeHashAdded::SIGNATURE_HASH, allowed).await
        }
        Verb::Hash(args) => hash::run(args, printer),
    }
}

async fn add(compose_hash: B256, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    if operator.chain.read(contract, allowedComposeHashesCall { composeHash: compose_hash }, None).await? {
        return Err(
            nothing_to_do(format!("compose hash {compose_hash} is allowed already"), "meshctl compose list").into()
        );
    }
    let call = Call::function(
        format!("allow compose hash {compose_hash}"),
        contract,
        &addComposeHashCall { composeHash: compose_hash },
    );
    change(&operator, printer, contract, call, |_| {
        let text = format!("compose hash {compose_hash} is allowed: its CVMs may boot");
        Ok((Changed { compose_hash, allowed: true }, text))
    })
    .await
}

async fn remove(compose_hash: B256, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    if !operator.chain.read(contract, allowedComposeHashesCall { composeHash: compose_hash }, None).await? {
        return Err(
            nothing_to_do(format!("compose hash {compose_hash} is not on the list"), "meshctl compose list").into()
        );
    }
    let consequences = Consequences::new(
        "CVMs of this app-compose.json do not boot again: a node that runs it is gone with its next restart",
        format!("`meshctl compose add {compose_hash}`, at once"),
    );
    let call = Call::function(
        format!("remove compose hash {compose_hash}"),
        contract,
        &removeComposeHashCall { composeHash: compose_hash },
    );
    change(&operator, printer, contract, call.after_asking(consequences), |_| {
        let text = format!(
            "compose hash {compose_hash} is removed: its CVMs do not boot again\n\
             nodes that run it now stay: `meshctl revoke TOKEN` takes one out"
        );
        Ok((Changed { compose_hash, allowed: false }, text))
    })
    .await
}
