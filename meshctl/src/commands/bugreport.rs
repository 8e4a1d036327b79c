//! `meshctl bugreport`: one file that explains a problem. Nothing leaves this machine, and nothing is written before it was shown.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use mesh_core::{
    history::{Event, History, What},
    rfc3339,
    status::Status,
};
use serde_json::json;

use crate::{
    agent_socket::AgentSocket,
    bugreport::{Section, journal, machine, report, settings_of, tail},
    cli::VERSION,
    confirm::ask,
    failure::{Failure, parts},
    output::Printer,
    render::{Masks, explain, status_text},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It holds status, warnings and what happened in the last hour, configuration, versions, kernel settings and the \
                        last log lines; no key of any kind, and of RPC endpoints the host alone.\n\nExample: meshctl bugreport \
                        --anonymize"
)]
pub(crate) struct Args {
    /// Where to write it; `-` only prints it [default: p2p-bugreport-TIME.txt in this directory]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Mask names, keys and addresses outside the mesh, too
    #[arg(long)]
    anonymize: bool,
    /// The agent's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/p2p-agent/config.toml")]
    config: PathBuf,
    /// The agent's log, where it is a file and not the journal
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The agent's systemd unit, whose journal is read
    #[arg(long, value_name = "UNIT", default_value = "p2p-agent", conflicts_with = "log")]
    unit: String,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut agent = Answers::of(settings).await;
    let mut masks = masks(args, &agent)?;
    if let (Some(masks), Ok(status)) = (&mut masks, &mut agent.status) {
        *status = masks.status(status)?;
    }
    let mut sections = vec![Section::new("versions", Ok(versions(&agent, &rfc3339(now))))];
    sections.extend(agent.sections());
    sections.extend([
        Section::new("machine", Ok(machine(Path::new("/")))),
        Section::new("configuration", settings_of(&args.config)),
        Section::new("log", args.log.as_deref().map_or_else(|| journal(&args.unit), tail)),
    ]);
    let text = report(&sections, |text| masks.as_mut().map_or_else(|| text.to_owned(), |masks| masks.text(text)));

    let seconds = rfc3339(now).replace(['-', ':'], "");
    let seconds = seconds.split('.').next().unwrap_or_default();
    let path = args.output.clone().unwrap_or_else(|| format!("p2p-bugreport-{seconds}Z.txt").into());
    let is_printed_alone = path.as_os_str() == "-";
    if !printer.json() {
        printer.text(&text)?;
    }
    if !is_printed_alone {
        confirm(&path, settings.yes())?;
        write(&path, &text)?;
        printer.note(format!("written to {}: read it before you send it", path.display()));
    }
    if printer.json() {
        let written = (!is_printed_alone).then(|| path.display().to_string());
        printer.value(&json!({ "schema": "meshctl.bugreport/v1", "file": written, "text": text }))?;
    }
    Ok(0)
}

/// What the agent says, or why it says nothing.
struct Answers {
    status: Result<Status, String>,
    history: Result<History, String>,
}

impl Answers {
    async fn of(settings: &Settings) -> Self {
        let agent = match settings.socket() {
            Ok(path) => AgentSocket::new(path),
            Err(error) => {
                let reason = error.to_string();
                return Self { status: Err(reason.clone()), history: Err(reason) };
            }
        };
        let words = |error: anyhow::Error| parts(&error).0;
        Self { status: agent.status().await.map_err(words), history: agent.history().await.map_err(words) }
    }

    fn sections(&self) -> Vec<Section> {
        let status = || self.status.as_ref().map_err(Clone::clone);
        let why = |status: &Status| {
            let peers = status.peers.iter().map(|peer| explain(peer, status).text(false));
            peers.collect::<Vec<_>>().join("\n")
        };
        let history = self.history.as_ref().map_err(Clone::clone);
        vec![
            Section::new("status", status().map(|status| status_text(status, false))),
            Section::new("why, of each peer", status().map(why)),
            Section::new("the last hour", history.map(|history| history.events.iter().map(line).collect())),
            Section::new(
                "status as JSON",
                status().and_then(|status| serde_json::to_string_pretty(status).map_err(|error| error.to_string())),
            ),
        ]
    }
}

fn versions(agent: &Answers, now: &str) -> String {
    let of_agent = agent.status.as_ref().map_or("unknown", |status| &status.agent.version);
    format!("made at {now}\nmeshctl {}\np2p-agent {of_agent}\n", VERSION.lines().next().unwrap_or_default())
}

/// One event, for people.
fn line(event: &Event) -> String {
    let who = event.peer.map_or_else(|| "this node".to_owned(), |peer| format!("token {peer}"));
    let what = match &event.what {
        What::Verdict { from, to } => format!("verdict {} -> {}", word(from), word(to)),
        What::Epoch { epoch, block } => format!("read epoch {epoch} at block {block}"),
        What::Warning { code, message } => format!("{code}: {message}"),
        What::WarningOver { code } => format!("{code} is over"),
        What::State { from, to } => {
            let name = |state: &Option<_>| state.map_or("unknown", mesh_core::status::PeerState::name);
            format!("{} -> {}", name(from), to.map_or("gone", |_| name(to)))
        }
        What::Path { from, to, reason } => format!("path {} -> {} ({reason})", from.name(), to.name()),
    };
    format!("{} {who}: {what}\n", event.at)
}

/// A value's word in JSON.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What masks the report, where that was asked for.
fn masks(args: &Args, agent: &Answers) -> anyhow::Result<Option<Masks>> {
    match &agent.status {
        _ if !args.anonymize => Ok(None),
        Ok(status) => Ok(Some(Masks::of(status))),
        Err(reason) => Err(Failure::new(format!("names cannot be masked without the agent's status: {reason}"))
            .hint("start the agent, or leave `--anonymize` out and read the report before you send it")
            .into()),
    }
}

/// The report was printed: asks whether to write it.
fn confirm(path: &Path, yes: bool) -> Result<(), Failure> {
    match if yes { Some(true) } else { ask(&format!("write this to {}?", path.display())) } {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new("nothing was written: not confirmed")),
        None => Err(Failure::usage("there is no terminal to ask on whether to write the report")
            .hint("add `--yes` to write it, or `--output -` to print it alone")),
    }
}

/// Readable for this user alone, and never over another file.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write the report to `{}`", path.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context("cannot write the report")
}
