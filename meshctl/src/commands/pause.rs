//! `meshctl pause` and `meshctl unpause`: no new registrations, and again. Endpoint updates, leaving, minting and voting go
//! on meanwhile.

use mesh_contract::DstackClusterNFT::{pauseRegistrationsCall, unpauseRegistrationsCall};
use serde::Serialize;

use super::change::change_cluster;
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    key: SignerArgs,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Pause,
    Unpause,
}

#[derive(Debug, Serialize)]
struct Changed {
    registrations_paused: bool,
}

pub(crate) async fn run(verb: Verb, args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let changed = Changed { registrations_paused: verb == Verb::Pause };
    match verb {
        Verb::Pause => {
            let text = "registrations are paused: peers stay, new ones wait until `meshctl unpause`";
            let report = (changed, text.to_owned());
            change_cluster(settings, &args.key, printer, "pause registrations", pauseRegistrationsCall {}, report).await
        }
        Verb::Unpause => {
            let report = (changed, "registrations are open again".to_owned());
            let call = unpauseRegistrationsCall {};
            change_cluster(settings, &args.key, printer, "unpause registrations", call, report).await
        }
    }
}
