//! `meshctl pause`: stops new registrations. Endpoint updates, leaving, minting and voting go on.

use mesh_contract::DstackClusterNFT::pauseRegistrationsCall;
use serde::Serialize;

use super::change::change_cluster;
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl pause --dry-run")]
pub(crate) struct Args {
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    registrations_paused: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let report = (
        Changed { registrations_paused: true },
        "registrations are paused: peers stay, new ones wait until `meshctl unpause`".to_owned(),
    );
    change_cluster(settings, &args.key, printer, "pause registrations", pauseRegistrationsCall {}, report).await
}
