//! `meshctl pause` and `meshctl unpause`: no new registrations, and again. Endpoint updates, leaving, minting and voting go
//! on meanwhile.

use mesh_contract::DstackClusterNFT::{clusterConfigCall, pauseRegistrationsCall, unpauseRegistrationsCall};
use serde::Serialize;

use super::{change::change, leaving::nothing_to_do};
use crate::{
    chain::{Call, Operator},
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

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
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let paused = verb == Verb::Pause;
    let config = operator.chain.read(contract, clusterConfigCall {}, None).await?;
    if config.registrationsPaused == paused {
        let state = if paused { "registrations are paused already" } else { "registrations are open already" };
        return Err(nothing_to_do(state, "meshctl config").into());
    }
    let (call, text) = match verb {
        Verb::Pause => (
            Call::function("pause registrations", contract, &pauseRegistrationsCall {}),
            "registrations are paused: peers stay, new ones wait until `meshctl unpause`",
        ),
        Verb::Unpause => (
            Call::function("unpause registrations", contract, &unpauseRegistrationsCall {}),
            "registrations are open again",
        ),
    };
    let changed = Changed { registrations_paused: paused };
    change(&operator, printer, contract, call, |_| Ok((changed, text.to_owned()))).await
}
