//! `meshctl unpause`: takes registrations again.

use mesh_contract::DstackClusterNFT::unpauseRegistrationsCall;
use serde::Serialize;

use super::change::change_cluster;
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl unpause --dry-run")]
pub(crate) struct Args {
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    registrations_paused: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let report = (Changed { registrations_paused: false }, "registrations are open again".to_owned());
    change_cluster(settings, &args.key, printer, "unpause registrations", unpauseRegistrationsCall {}, report).await
}
