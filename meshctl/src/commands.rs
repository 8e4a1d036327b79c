//! One file per command: `run` is a function of the resolved settings and a printer, and returns the exit code.

pub(crate) mod app;
pub(crate) mod bind;
pub(crate) mod bugreport;
pub(crate) mod burn;
pub(crate) mod compose;
pub(crate) mod config;
pub(crate) mod deactivate;
pub(crate) mod deploy;
pub(crate) mod dev_url;
pub(crate) mod device;
pub(crate) mod domain;
pub(crate) mod fund;
pub(crate) mod leader;
pub(crate) mod mint;
pub(crate) mod minting;
pub(crate) mod nodes;
pub(crate) mod owner;
pub(crate) mod pause;
pub(crate) mod peers;
pub(crate) mod phala;
pub(crate) mod register;
pub(crate) mod reinstate;
pub(crate) mod revoke;
pub(crate) mod root;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod upgrade;
pub(crate) mod wait;
pub(crate) mod why;
pub(crate) mod withdraw;

mod boot_list;
mod change;
mod join;
mod leaving;
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
        Command::Nodes(args) => nodes::run(args, settings, printer).await,
        Command::Mint(args) => mint::run(args, settings, printer).await,
        Command::Bind(args) => bind::run(args, settings, printer).await,
        Command::Fund(args) => fund::run(args, settings, printer).await,
        Command::Register(args) => register::run(args, settings, printer).await,
        Command::Revoke(args) => revoke::run(args, settings, printer).await,
        Command::Reinstate(args) => reinstate::run(args, settings, printer).await,
        Command::Deactivate(args) => deactivate::run(args, settings, printer).await,
        Command::Transfer(args) => transfer::run(args, settings, printer).await,
        Command::Burn(args) => burn::run(args, settings, printer).await,
        Command::Config(args) => config::run(args, settings, printer).await,
        Command::Minting(args) => minting::run(args, settings, printer).await,
        Command::Withdraw(args) => withdraw::run(args, settings, printer).await,
        Command::Pause(args) => pause::run(pause::Verb::Pause, args, settings, printer).await,
        Command::Unpause(args) => pause::run(pause::Verb::Unpause, args, settings, printer).await,
        Command::Owner(args) => owner::run(args, settings, printer).await,
        Command::Upgrade(args) => upgrade::run(args, settings, printer).await,
        Command::Compose(args) => compose::run(args, settings, printer).await,
        Command::Device(args) => device::run(args, settings, printer).await,
        Command::Root(args) => root::run(args, settings, printer).await,
        Command::App(args) => app::run(args, settings, printer).await,
        Command::Domain(args) => domain::run(args, settings, printer).await,
        Command::DevUrl(args) => dev_url::run(args, settings, printer).await,
        Command::Phala(args) => phala::run(args, settings, printer).await,
        Command::Leader(args) => leader::run(args, settings, printer).await,
        Command::Bugreport(args) => bugreport::run(args, settings, printer).await,
        Command::Schema(args) => schema::run(args, printer),
    }
}
