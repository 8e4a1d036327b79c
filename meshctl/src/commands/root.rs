//! `meshctl root`: the dstack KMS roots that a cluster trusts. Adding takes effect after a delay, removing at once.

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{
    KMS_ROOT_DELAYCall, KmsRootAdded, addKmsRootCall, kmsRootsCall, removeKmsRootCall,
};
use serde::Serialize;

use super::{change::change, leaving::consequences};
use crate::{
    address::parse_address,
    chain::{Block, Call, Chain, Operator},
    output::Printer,
    render::{Cell, Column, age, table},
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl root add 0x1111111111111111111111111111111111111111")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Trust a KMS root: the address of its k256 key; counts after a delay (contract owner)
    Add(RootArgs),
    /// Distrust a KMS root: its peers leave at once, and adding it again brings none of them back (contract owner)
    Remove(RootArgs),
    /// List the trusted roots
    List,
}

#[derive(Debug, clap::Args)]
struct RootArgs {
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    root: Address,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Added {
    root: Address,
    /// Unix seconds.
    effective_at: u64,
}

#[derive(Debug, Serialize)]
struct Removed {
    root: Address,
}

#[derive(Debug, Serialize)]
struct Listed {
    contract: Address,
    chain_id: u64,
    block_number: u64,
    roots: Vec<RootView>,
}

#[derive(Debug, Serialize)]
struct RootView {
    root: Address,
    /// Unix seconds.
    effective_at: u64,
    /// At the block's time.
    effective: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(RootArgs { root, key }) => add(*root, key, settings, printer).await,
        Verb::Remove(RootArgs { root, key }) => remove(*root, key, settings, printer).await,
        Verb::List => list(settings, printer).await,
    }
}

async fn add(root: Address, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    settings.refuse_published("a KMS root", root)?;
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let call = Call::function(format!("trust KMS root {root}"), contract, &addKmsRootCall { root });
    let now = operator.chain.head().await?.time;
    change(&operator, printer, contract, call, |done| {
        let KmsRootAdded { effectiveAt: effective_at, .. } = done.event(contract)?;
        let wait = age(effective_at.saturating_sub(now) as f64);
        let text = format!(
            "KMS root {root} counts in {wait}, from Unix second {effective_at} on\nuntil then: `meshctl root remove {root}`"
        );
        Ok((Added { root, effective_at }, text))
    })
    .await
}

async fn remove(root: Address, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    let delay = operator.chain.read(contract, KMS_ROOT_DELAYCall {}, None).await?;
    let delay = age(delay.to::<u64>() as f64);
    let words = (
        format!("no node whose keys are from KMS root {root} is a member"),
        format!(
            "`meshctl root add {root}` counts after {delay}; each node then registers again by itself, and pays for that"
        ),
    );
    let consequences = consequences(&operator.chain, contract, |peer| peer.kms_root == root, words).await?;
    let call = Call::function(format!("distrust KMS root {root}"), contract, &removeKmsRootCall { root });
    change(&operator, printer, contract, call.after_asking(consequences), |_| {
        Ok((Removed { root }, format!("KMS root {root} is distrusted: its peers are out of the mesh")))
    })
    .await
}

async fn list(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let head = chain.head().await?;
    let answer = chain.read(contract, kmsRootsCall {}, Some(head)).await?;
    anyhow::ensure!(
        answer.roots.len() == answer.effectiveAt.len(),
        "the contract's roots and their times are not as many"
    );
    let view = |(root, effective_at)| RootView { root, effective_at, effective: effective_at <= head.time };
    let roots = answer.roots.into_iter().zip(answer.effectiveAt).map(view).collect();
    let listed = Listed { contract, chain_id: chain.id, block_number: head.number, roots };
    printer.result(&listed, || text(&listed, head))?;
    Ok(0)
}

const COLUMNS: [Column; 2] = [Column::left("KMS ROOT"), Column::left("STATE")];

fn text(listed: &Listed, head: Block) -> String {
    let row = |view: &RootView| {
        let state = match view.effective {
            true => "trusted".to_owned(),
            false => format!("counts in {}", age(view.effective_at.saturating_sub(head.time) as f64)),
        };
        vec![Cell::new(view.root.to_string()), Cell::new(state)]
    };
    table(&COLUMNS, &listed.roots.iter().map(row).collect::<Vec<_>>(), false)
}
