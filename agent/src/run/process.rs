//! The process itself: no core dumps, no tracing by other processes, and logs that cannot hold a secret.

use std::{io, sync::Mutex};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt::writer::BoxMakeWriter,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use super::log_file::BoundedLog;
use crate::config::LogFormat;

/// Crates whose events are written. All others are silent at every level: HTTP clients and RPC transports log URLs (API keys)
/// and bodies (keys of the guest agent) at their lower levels.
const LOGGED: [&str; 9] = [
    "p2p_agent",
    "mesh_chain",
    "mesh_core",
    "mesh_contract",
    "mesh_front",
    "mesh_netstack",
    "mesh_paths",
    "mesh_proxy",
    "mesh_tunnel",
];

/// Keeps this process's memory from core dumps and from other processes of the same user. To be called before anything else: secrets
/// that were read before could be read by those processes too.
///
/// # Errors
/// The system's.
pub fn protect_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Changes which events are written.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<Targets, Registry>);

impl LogControl {
    /// From now on, those of this level and the levels above.
    pub fn set_level(&self, level: LevelFilter) {
        // It fails once nothing is logged any more.
        drop(self.0.reload(events(level)));
    }
}

fn writer(limit: Option<u64>) -> BoxMakeWriter {
    match limit.and_then(BoundedLog::of_stderr) {
        Some(log) => BoxMakeWriter::new(Mutex::new(log)),
        None => BoxMakeWriter::new(io::stderr),
    }
}

fn events(level: LevelFilter) -> Targets {
    LOGGED
        .iter()
        .fold(Targets::new().with_default(LevelFilter::OFF), |filter, target| filter.with_target(*target, level))
}

/// Sends our events to stderr. Where that is a file, it is kept within `limit` bytes. Call once, before the sandbox is entered.
pub fn start_logging(level: LevelFilter, format: LogFormat, limit: Option<u64>) -> LogControl {
    let (filter, handle) = reload::Layer::new(events(level));
    let registry = tracing_subscriber::registry().with(filter);
    // When stderr is closed, the layer would report that to stderr, and panic because it cannot.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer(limit)).log_internal_errors(false);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
    LogControl(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_ours_is_heard() {
        let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
        let ours = manifest["dependencies"].as_table().unwrap().keys().filter(|name| name.starts_with("mesh-"));
        let unheard: Vec<_> = ours.filter(|name| !LOGGED.contains(&name.replace('-', "_").as_str())).collect();
        assert!(unheard.is_empty(), "their logs are written nowhere: {unheard:?}");
    }
}
