//! The operator's command line for the mesh: one file per command, a printer, and nothing that decides who is a peer. A library, so
//! that manual pages and completions are made of the same commands (`packaging/manual`).

mod address;
mod agent_socket;
mod app_compose;
mod bugreport;
mod chain;
mod cli;
mod commands;
mod confirm;
mod failure;
mod mistake;
mod output;
mod phala;
mod process;
mod render;
#[cfg(test)]
mod samples;
mod settings;
mod signer;
mod suggest;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// Every command with its flags and help.
#[must_use]
pub fn command() -> clap::Command {
    cli::Cli::command()
}

/// The program: reads the command line, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(error) = process::protect_memory() {
        output::warn(&format!("error: cannot keep this process's memory to itself: {error}\n"));
        return failure::FAILED.into();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let no_color = std::env::var("NO_COLOR").ok();
    let printer = output::Printer::new(cli.global.json, cli.global.color, no_color.as_deref());
    let printer = printer.repeating(cli.global.to_repeat());
    run(&cli, &printer).unwrap_or_else(|error| printer.fail(&error)).into()
}

/// Help and version go to stdout and succeed. A mistake is repeated without the API keys of the URLs in it.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = mesh_chain::cut_urls(&error.render().to_string());
    let arguments = || std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let hint = mistake::meant(error, arguments()).map(|meant| format!("did you mean `{meant}`?"));
    if arguments().any(|argument| argument == "--json") {
        let what = text.trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default().trim().to_owned();
        let mistake = failure::Failure::usage(what);
        let mistake = if let Some(hint) = hint { mistake.hint(hint) } else { mistake };
        return output::Printer::new(true, output::ColorChoice::Never, None).fail(&mistake.into()).into();
    }
    output::warn(&render::printable(&text));
    if let Some(hint) = hint {
        output::warn(&render::printable(&format!("hint: {hint}\n")));
    }
    failure::USAGE.into()
}

fn run(cli: &cli::Cli, printer: &output::Printer) -> anyhow::Result<u8> {
    let settings = settings::Settings::resolve(&cli.global, |name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(commands::run(&cli.command, &settings, printer));
    // A look-up of the endpoint's name that hangs is a thread that is not waited for.
    runtime.shutdown_background();
    outcome
}
