//! `meshctl app`: the dstack apps whose nodes may join. The cluster's own app id is the first. Adding takes effect after a delay,
//! removing at once.

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{APP_ID_DELAYCall, AppIdAdded, addAppIdCall, appIdsCall, removeAppIdCall};
use mesh_core::id::AppId;
use serde::Serialize;

use super::{change::change, leaving::consequences};
use crate::{
    address::parse_app_id,
    chain::{Block, Call, Chain, Operator},
    output::Printer,
    render::{Cell, Column, age, table},
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
    /// Allow a dstack app: its nodes may register after a delay (contract owner)
    Add(AppArgs),
    /// Disallow a dstack app: its peers leave at once, and adding it again brings none of them back (contract owner)
    Remove(AppArgs),
    /// List the allowed apps
    List,
}

#[derive(Debug, clap::Args)]
struct AppArgs {
    #[arg(value_name = "APP_ID", value_parser = parse_app_id)]
    app_id: AppId,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Added {
    app_id: AppId,
    /// Unix seconds.
    effective_at: u64,
}

#[derive(Debug, Serialize)]
struct Removed {
    app_id: AppId,
}

#[derive(Debug, Serialize)]
struct Listed {
    contract: Address,
    chain_id: u64,
    block_number: u64,
    app_ids: Vec<AppId>,
    /// The same, with what decides whether their nodes may register.
    apps: Vec<AppView>,
}

#[derive(Debug, Serialize)]
struct AppView {
    app_id: AppId,
    /// Unix seconds.
    effective_at: u64,
    /// At the block's time.
    effective: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(AppArgs { app_id, key }) => add(*app_id, key, settings, printer).await,
        Verb::Remove(AppArgs { app_id, key }) => remove(*app_id, key, settings, printer).await,
        Verb::List => list(settings, printer).await,
    }
}

async fn add(app_id: AppId, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let call = Call::function(format!("allow app {app_id}"), contract, &addAppIdCall { appId: app_id.into() });
    let now = operator.chain.head().await?.time;
    change(&operator, printer, contract, call, |done| {
        let AppIdAdded { effectiveAt: effective_at, .. } = done.event(contract)?;
        let wait = age(effective_at.saturating_sub(now) as f64);
        let text = format!(
            "app {app_id} counts in {wait}, from Unix second {effective_at} on: then its nodes may register\n\
             until then: `meshctl app remove {app_id}`"
        );
        Ok((Added { app_id, effective_at }, text))
    })
    .await
}

async fn remove(app_id: AppId, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let delay = operator.chain.read(contract, APP_ID_DELAYCall {}, None).await?;
    let delay = age(delay.to::<u64>() as f64);
    let words = (
        format!("no node of app {app_id} is a member"),
        format!(
            "`meshctl app add {app_id}` counts after {delay}; each node then registers again by itself, and pays for that"
        ),
    );
    let consequences = consequences(&operator.chain, contract, |peer| peer.app_id == app_id, words).await?;
    let call = removeAppIdCall { appId: app_id.into() };
    let call = Call::function(format!("disallow app {app_id}"), contract, &call).after_asking(consequences);
    change(&operator, printer, contract, call, |_| {
        Ok((Removed { app_id }, format!("app {app_id} is not allowed any more: its peers are out of the mesh")))
    })
    .await
}

async fn list(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let head = chain.head().await?;
    let answer = chain.read(contract, appIdsCall {}, Some(head)).await?;
    anyhow::ensure!(
        answer.accounts.len() == answer.effectiveAt.len(),
        "the contract's apps and their times are not as many"
    );
    let view = |(account, effective_at): (Address, u64)| {
        let (app_id, effective) = (AppId::from(account), effective_at <= head.time);
        AppView { app_id, effective_at, effective }
    };
    let apps: Vec<_> = answer.accounts.into_iter().zip(answer.effectiveAt).map(view).collect();
    let app_ids = apps.iter().map(|app| app.app_id).collect();
    let listed = Listed { contract, chain_id: chain.id, block_number: head.number, app_ids, apps };
    printer.result(&listed, || text(&listed, head))?;
    Ok(0)
}

const COLUMNS: [Column; 3] = [Column::left("APP ID"), Column::left("STATE"), Column::left("NOTE")];

fn text(listed: &Listed, head: Block) -> String {
    let own = AppId::from(listed.contract);
    let row = |app: &AppView| {
        let state = match app.effective {
            true => "allowed".to_owned(),
            false => format!("counts in {}", age(app.effective_at.saturating_sub(head.time) as f64)),
        };
        let note = if app.app_id == own { "the contract itself" } else { "" };
        vec![Cell::new(app.app_id.to_string()), Cell::new(state), Cell::new(note)]
    };
    table(&COLUMNS, &listed.apps.iter().map(row).collect::<Vec<_>>(), false)
}
