//! `dstack-simulator`: guest agents on unix sockets, and the gateway before them, for development and tests.

mod proxy;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A SIMULATED dstack guest agent: the real protocol, keys that anyone can know.
///
/// Without arguments it serves the public simulator fixture at ./dstack.sock and ./tappd.sock. The first line on
/// stdout is JSON, printed once the sockets answer: simulated, kms_root, app_id, instances (index, instance_id,
/// dstack_sock, tappd_sock). The log goes to stderr (RUST_LOG chooses what).
#[derive(Parser)]
#[command(name = "dstack-simulator", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    Gateway(proxy::Args),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let ended = match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Gateway(args)) => proxy::run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
