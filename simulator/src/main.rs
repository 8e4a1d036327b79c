//! `dstack-simulator`: guest agents on unix sockets for development and tests.

mod serve;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// A SIMULATED dstack guest agent: the real protocol, keys that everybody can know.
///
/// Without arguments it serves the public simulator fixture at ./dstack.sock and ./tappd.sock. The first line on
/// stdout is JSON, printed once the sockets answer: simulated, kms_root, app_id, instances (index, instance_id,
/// dstack_sock, tappd_sock). The log goes to stderr (RUST_LOG chooses what).
#[derive(Parser)]
#[command(name = "dstack-simulator", version, about)]
struct Cli {
    #[command(flatten)]
    serve: serve::Args,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    match serve::run(cli.serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
