//! One file per command: `run` is a function of the resolved settings and a printer, and returns the exit code.

pub(crate) mod bind;
pub(crate) mod burn;
pub(crate) mod deactivate;
pub(crate) mod deploy;
pub(crate) mod mint;
pub(crate) mod nodes;
pub(crate) mod peers;
pub(crate) mod register;
pub(crate) mod reinstate;
pub(crate) mod revoke;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod wait;
pub(crate) mod why;

mod change;
mod token;

use crate::{cli::Command, output::Printer, settings::Settings};

/// Runs a command to its exit code.
pub(crate) async fn run(command: &Command, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match command {
        Command::Status(args) => status::run(args, settings, printer).await,
        Command::Peers(args) => peers::run(args, settings, printer).await,
        Command::Why(args) => why::run(args, settings, printer).await,
        Command::Wait(args) => wait::run(args, settings, printer).await,
        Command::Deploy(args) => deploy::run(args, settings, printer).await,
        Command::Mint(args) => mint::run(args, settings, printer).await,
        Command::Bind(args) => bind::run(args, settings, printer).await,
        Command::Register(args) => register::run(args, settings, printer).await,
        Command::Nodes(args) => nodes::run(args, settings, printer).await,
        Command::Revoke(args) => revoke::run(args, settings, printer).await,
        Command::Reinstate(args) => reinstate::run(args, settings, printer).await,
        Command::Deactivate(args) => deactivate::run(args, settings, printer).await,
        Command::Transfer(args) => transfer::run(args, settings, printer).await,
        Command::Burn(args) => burn::run(args, settings, printer).await,
        Command::Schema(args) => schema::run(args, printer),
    }
}
