//! `meshctl phala status`: what Phala Cloud has of the app, and what the contract says of it. Changes nothing.

use super::{cluster::Cluster, given::ApiArgs, report::Report};
use crate::{chain::Chain, failure::FAILED, output::Printer, settings::Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: ApiArgs,
}

/// The exit code says whether all CVMs are members.
pub(super) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let api = args.api.api()?;
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let seen = Cluster::new(&api, &chain, contract, None, false).look().await?;
    let report = Report::of(&chain, contract, &seen, Vec::new()).await?;
    printer.result(&report, || report.text(printer.color()))?;
    Ok(if report.is_whole() { 0 } else { FAILED })
}
