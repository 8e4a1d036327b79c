//! The operator's command line for the mesh: one file per command, a printer, and nothing that decides who is a peer.

mod agent_socket;
mod chain;
mod cli;
mod commands;
mod failure;
mod output;
mod render;
#[cfg(test)]
mod samples;
mod settings;
mod signer;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and succeed.
            let _ = error.print();
            return if error.use_stderr() { failure::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(code) => code.into(),
        Err(error) => {
            let (text, code) = failure::report(&error);
            output::warn(&render::printable(&text));
            code.into()
        }
    }
}

fn run(cli: &cli::Cli) -> anyhow::Result<u8> {
    let variable = |name: &str| std::env::var(name).ok();
    let settings = settings::Settings::resolve(&cli.global, variable)?;
    let printer = output::Printer::new(cli.global.json, cli.global.color, variable("NO_COLOR").as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(&cli.command, &settings, &printer))
}
