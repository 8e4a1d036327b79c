//! `meshctl app`: the dstack apps whose nodes may join. The cluster's own app id is the first.

use alloy::primitives::Address;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{addAppIdCall, appIdsCall, removeAppIdCall};
use mesh_core::id::AppId;
use serde::Serialize;

use super::change::change_cluster;
use crate::{
    chain::Chain,
    output::Printer,
    render::{Cell, Column, table},
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl app add 5bb4ff9a3837357f19dc176407a5709c62eb6c56")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Allow a dstack app: its nodes may register (contract owner)
    Add(AppArgs),
    /// Disallow a dstack app: its peers leave at once, and adding it again revives nobody (contract owner)
    Remove(AppArgs),
    /// List the allowed apps
    List,
}

#[derive(Debug, clap::Args)]
struct AppArgs {
    #[arg(value_name = "APP_ID")]
    app_id: AppId,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    app_id: AppId,
}

#[derive(Debug, Serialize)]
struct Listed {
    contract: Address,
    chain_id: u64,
    block_number: u64,
    app_ids: Vec<AppId>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(AppArgs { app_id, key }) => {
            let report = (Changed { app_id: *app_id }, format!("app {app_id} is allowed: its nodes may register"));
            let call = addAppIdCall { appId: (*app_id).into() };
            change_cluster(settings, key, printer, format!("allow app {app_id}"), call, report).await
        }
        Verb::Remove(AppArgs { app_id, key }) => {
            let text = format!("app {app_id} is not allowed any more: its peers are out of the mesh");
            let call = removeAppIdCall { appId: (*app_id).into() };
            let report = (Changed { app_id: *app_id }, text);
            change_cluster(settings, key, printer, format!("disallow app {app_id}"), call, report).await
        }
        Verb::List => list(settings, printer).await,
    }
}

async fn list(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let contract = settings.contract()?;
    let chain = Chain::connect(settings).await?;
    let head = chain.head().await?;
    let apps = chain.read(contract, appIdsCall {}, Some(head)).await?;
    let app_ids = apps.into_iter().map(AppId::from).collect();
    let listed = Listed { contract, chain_id: chain.id, block_number: head.number, app_ids };
    printer.result(&listed, || text(&listed))?;
    Ok(0)
}

const COLUMNS: [Column; 2] = [Column::left("APP ID"), Column::left("NOTE")];

fn text(listed: &Listed) -> String {
    let own = AppId::from(listed.contract);
    let row = |app_id: &AppId| {
        let note = if *app_id == own { "the contract itself" } else { "" };
        vec![Cell::new(app_id.to_string()), Cell::new(note)]
    };
    table(&COLUMNS, &listed.app_ids.iter().map(row).collect::<Vec<_>>(), false)
}
