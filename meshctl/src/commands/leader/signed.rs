//! A vote as a member signs it (EIP-712) and a relayer submits it: the member needs no funds, the relayer no trust.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use mesh_contract::{SignedVote, VOTE_GAS, VOTE_VALID_FOR};

use super::{report, what};
use crate::{
    chain::{Call, Operator},
    commands::{change::change, register::read_json},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
pub(super) struct RelayArgs {
    /// File with the signed vote, as `meshctl leader vote --sign-for TOKEN` prints it; `-` reads stdin
    #[arg(value_name = "PATH")]
    vote: PathBuf,
    #[command(flatten)]
    key: SignerArgs,
}

/// Of a vote that is signed now, Unix seconds.
pub(super) fn deadline() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).saturating_add(VOTE_VALID_FOR)
}

/// Submits a vote. Nothing but that call can come of the file, whatever is in it.
pub(super) async fn relay(args: &RelayArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let vote: SignedVote = read_json(&args.vote, "vote")?;
    let refuse = |why: String| Failure::new(format!("refused to relay the vote: {why}"));
    if let Some(contract) = settings.given_contract().filter(|contract| *contract != vote.contract) {
        return Err(refuse(format!("it is for contract {}, not {contract}", vote.contract)).into());
    }
    let operator = Operator::connect(settings, &args.key).await?;
    if vote.chain_id != operator.chain.id {
        let why = format!("it is for chain {}, but `--rpc-url` leads to chain {}", vote.chain_id, operator.chain.id);
        return Err(refuse(why).hint("give an endpoint of that chain").into());
    }
    let call = Call::function(what(vote.is_no_confidence, vote.target), vote.contract, &vote.call());
    let call = call.with_least_gas(VOTE_GAS);
    change(&operator, printer, vote.contract, call, |done| report(done, vote.contract)).await
}
