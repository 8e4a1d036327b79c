//! `p2p-agent`: keeps this node's WireGuard tunnel equal to the cluster contract's peer set.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Parser as _;
use mesh_chain::cut_urls;
use mesh_tunnel::DeviceOptions;
use p2p_agent::{
    cli::{Cli, Command},
    config::{Config, ConfigError, DEFAULT_CONFIG_FILE, Homes, Layers, LeaveSettings, LogFormat, Mode, Read},
    device::{guard, machine},
    run::{
        self, process,
        reload::{Reloaded, Reloader},
        sandbox,
    },
    state::dir::effective_user,
};
use tracing_subscriber::filter::LevelFilter;

/// Exit code of a wrong command line or configuration (sysexits' EX_USAGE).
const USAGE: u8 = 64;

/// What `check` found is on standard output: there is nothing more to say.
#[derive(Debug, thiserror::Error)]
#[error("endpoints fail")]
struct EndpointsFail;

fn main() -> ExitCode {
    mesh_tunnel::keep_little_memory();
    if let Err(error) = process::protect_memory() {
        report(&format!("cannot protect this process's memory: {error}"));
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let config_flag = cli.flags.config;
    let outcome = match cli.command {
        Some(Command::Tunnel { name, foreground, device }) => tunnel(device.options(&name), foreground),
        Some(Command::Check { json, flags }) => match settings(flags.config, 2) {
            Ok(settings) => check(&settings.config, json),
            Err(error) => return settings_error(error),
        },
        Some(Command::Guard(flags)) => match settings(flags.config, 2) {
            Ok(settings) => guard(settings),
            Err(error) => return settings_error(error),
        },
        Some(Command::Leave(flags)) => match leave_settings(flags.config) {
            Ok(settings) => leave(&settings),
            Err(error) => return settings_error(error),
        },
        None => match settings(config_flag.clone(), 1) {
            Ok(settings) => run(settings, config_flag),
            Err(error) => return settings_error(error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<EndpointsFail>() {
                report(&format!("{error:#}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings, config_flag: Option<PathBuf>) -> anyhow::Result<()> {
    let Settings { config, format, log_limit, started } = settings;
    let log = process::start_logging(started.level, format, log_limit);
    let read = Arc::new(move || {
        let named = config_flag.clone().or_else(|| variable("P2P_CONFIG").map(PathBuf::from));
        // From an SDK, which hands a pipe over.
        if named.is_some_and(|path| path.starts_with("/dev") || path.starts_with("/proc")) {
            anyhow::bail!("the configuration came by a descriptor, which is read once: restart the agent");
        }
        Ok(self::settings(config_flag.clone(), 1)?.started)
    });
    let reloader = Reloader { read, started, log };
    sandbox::enter(&config).context("cannot give up privileges")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run::start(config, reloader));
    // Everything that must be undone is undone. What is left are name look-ups, which cannot be cancelled and would delay the end.
    runtime.shutdown_background();
    outcome
}

fn check(config: &Config, json: bool) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let report = runtime.block_on(run::check::check(config));
    // A name look-up that hangs does not hold up the end.
    runtime.shutdown_background();
    let text = if json { serde_json::to_string(&report)? } else { report.to_string() };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
    if report.ok { Ok(()) } else { Err(EndpointsFail.into()) }
}

fn guard(settings: Settings) -> anyhow::Result<()> {
    let Settings { config, format, log_limit, started } = settings;
    process::start_logging(started.level, format, log_limit);
    if config.mode == Mode::Tls {
        tracing::info!("a node of `--mode tls` has no mesh network to guard");
        return Ok(());
    }
    if !config.dataplane.has_interface() {
        tracing::info!(
            "a node of `--tunnel netstack` has nothing to guard: no packet of the mesh is ever in the kernel"
        );
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(guard::raise_alone(&config))
}

fn leave(settings: &LeaveSettings) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let mut removed = runtime.block_on(guard::leave(settings))?;
    if removed.is_empty() {
        removed.push(format!("nothing guards a mesh network for `{}`", settings.interface));
    }
    removed.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")).context("cannot write to standard output")
}

fn tunnel(options: DeviceOptions, foreground: bool) -> anyhow::Result<()> {
    if foreground {
        process::start_logging(LevelFilter::INFO, LogFormat::Text, None);
    }
    mesh_tunnel::run_standalone(options, foreground).map_err(|error| anyhow::anyhow!(error.in_full()))
}

/// What an agent runs with.
struct Settings {
    config: Config,
    format: LogFormat,
    /// Bytes.
    log_limit: Option<u64>,
    started: Reloaded,
}

/// The agent's; on the command line they begin after this many words.
fn settings(config_flag: Option<PathBuf>, after: usize) -> Result<Settings, anyhow::Error> {
    let Read { mut flags, names, given } = read(config_flag, after)?;
    flags.without_tun = machine::why_without_tun();
    let level = flags.log_level.map_or(LevelFilter::INFO, |level| level.0);
    let format = flags.log_format.unwrap_or(LogFormat::Text);
    let log_limit = flags.log_limit.map(|mebibytes| u64::from(mebibytes) << 20);
    let homes = Homes::of(effective_user(), variable);
    let config = Config::resolve(flags, names, &homes)?;
    let started = Reloaded { given, adjustments: config.adjustments(), level };
    Ok(Settings { config, format, log_limit, started })
}

fn leave_settings(config_flag: Option<PathBuf>) -> Result<LeaveSettings, anyhow::Error> {
    Ok(LeaveSettings::resolve(read(config_flag, 2)?.flags)?)
}

/// The settings of all layers; on the command line they begin after this many words.
fn read(config_flag: Option<PathBuf>, after: usize) -> Result<Read, anyhow::Error> {
    let file = read_file(config_flag.or_else(|| variable("P2P_CONFIG").map(PathBuf::from)))?;
    // The subcommand's own is no setting.
    let arguments = env::args_os().skip(after).filter(|word| after == 1 || word != "--json");
    let arguments = arguments.map(OsString::into_string).collect::<Result<_, _>>();
    // Not repeated: it may hold an API key.
    let arguments = arguments.map_err(|_| anyhow::anyhow!("an argument on the command line is not UTF-8"))?;
    Ok(Layers { arguments, variable: &variable, file }.read()?)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// A file that was named must be there; the default one need not.
fn read_file(named: Option<PathBuf>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let path = named.clone().unwrap_or_else(|| Path::new(DEFAULT_CONFIG_FILE).to_owned());
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read configuration file `{}`", path.display())),
    }
}

fn settings_error(error: anyhow::Error) -> ExitCode {
    match error.downcast::<ConfigError>() {
        Ok(ConfigError::Usage(error)) => usage(&error),
        Ok(error) => {
            report(&error.to_string());
            ExitCode::from(USAGE)
        }
        Err(error) => {
            report(&format!("{error:#}"));
            ExitCode::from(USAGE)
        }
    }
}

/// clap's own words, without what may be an API key in them. Help and version are not errors.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    drop(write!(io::stderr(), "{}", cut_urls(&error.render().to_string())));
    ExitCode::from(USAGE)
}

/// One `error:` line; further lines (`hint:`) stand for themselves.
fn report(text: &str) {
    // A closed stderr leaves nowhere to report that.
    drop(writeln!(io::stderr(), "error: {text}"));
}
