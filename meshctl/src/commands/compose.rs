//! `meshctl compose`: which app-compose.json may boot, by compose hash. The boot gate is asked by dstack's KMS.

use alloy_primitives::B256;
use alloy_sol_types::SolEvent as _;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{
    ComposeHashAdded, addComposeHashCall, allowedComposeHashesCall, removeComposeHashCall,
};
use serde::Serialize;

use super::{
    boot_list::{self, ListArgs},
    change::change_cluster,
};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

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
}

#[derive(Debug, clap::Args)]
struct HashArgs {
    /// SHA-256 of app-compose.json, 64 hex digits
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
        Verb::Add(HashArgs { compose_hash, key }) => {
            let compose_hash = *compose_hash;
            let text = format!("compose hash {compose_hash} is allowed: its CVMs may boot");
            let report = (Changed { compose_hash, allowed: true }, text);
            let call = addComposeHashCall { composeHash: compose_hash };
            change_cluster(settings, key, printer, format!("allow compose hash {compose_hash}"), call, report).await
        }
        Verb::Remove(HashArgs { compose_hash, key }) => {
            let compose_hash = *compose_hash;
            let text = format!(
                "compose hash {compose_hash} is removed: its CVMs do not boot again\n\
                 nodes that run it now stay: `meshctl revoke TOKEN` takes one out"
            );
            let report = (Changed { compose_hash, allowed: false }, text);
            let call = removeComposeHashCall { composeHash: compose_hash };
            change_cluster(settings, key, printer, format!("remove compose hash {compose_hash}"), call, report).await
        }
        Verb::List(args) => {
            let allowed = |hash| allowedComposeHashesCall { composeHash: hash };
            boot_list::list(args, settings, printer, "COMPOSE HASH", ComposeHashAdded::SIGNATURE_HASH, allowed).await
        }
    }
}
