//! `meshctl phala`: a cluster at Phala Cloud, from compose file to members. What is there is read from the API and the contract each
//! time, so that every command can be repeated.

mod cluster;
mod deploy;
mod destroy;
mod given;
mod names;
mod policy;
mod report;
mod status;
mod tokens;
mod upgrade;

use clap::Subcommand;

use crate::{output::Printer, settings::Settings};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl phala deploy --nodes 3 --name prod-db --compose-file docker-compose.yml --env-file secrets.env"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the CVMs of a cluster, and members of them: goes on from whatever is there (contract owner)
    Deploy(deploy::Args),
    /// Show the CVMs of the app, and which of them are members
    Status(status::Args),
    /// Give the CVMs another compose file, one at a time (contract owner)
    Upgrade(upgrade::Args),
    /// Burn the tokens of the app's CVMs, and delete the CVMs with their disks (contract owner)
    Destroy(destroy::Args),
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Deploy(args) => deploy::run(args, settings, printer).await,
        Verb::Status(args) => status::run(args, settings, printer).await,
        Verb::Upgrade(args) => upgrade::run(args, settings, printer).await,
        Verb::Destroy(args) => destroy::run(args, settings, printer).await,
    }
}
