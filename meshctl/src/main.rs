//! The operator's command line for the mesh: one file per command, a printer, and nothing that decides who is a peer.

mod agent_socket;
mod chain;
mod cli;
mod commands;
mod failure;
mod output;
mod process;
mod render;
#[cfg(test)]
mod samples;
mod settings;
mod signer;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if let Err(error) = process::protect_memory() {
        output::warn(&format!("error: cannot keep this process's memory to itself: {error}\n"));
        return failure::FAILED.into();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
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

/// Help and version go to stdout and succeed. A mistake is repeated without the API keys of the URLs in it.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        output::warn(&render::printable(&mesh_chain::cut_urls(&error.render().to_string())));
        return failure::USAGE.into();
    }
    let _ = error.print();
    ExitCode::SUCCESS
}

fn run(cli: &cli::Cli) -> anyhow::Result<u8> {
    let variable = |name: &str| std::env::var(name).ok();
    let settings = settings::Settings::resolve(&cli.global, variable)?;
    let printer = output::Printer::new(cli.global.json, cli.global.color, variable("NO_COLOR").as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(commands::run(&cli.command, &settings, &printer));
    // A look-up of the endpoint's name that hangs is a thread that is not waited for.
    runtime.shutdown_background();
    outcome
}
