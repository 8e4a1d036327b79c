//! SIGHUP: the settings are read again. What can change while the agent runs does; what cannot is named.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use mesh_core::id::TokenId;
use tokio::{signal::unix::Signal, sync::watch, task::spawn_blocking};
use tracing_subscriber::filter::LevelFilter;

use super::process::LogControl;
use crate::config::Given;

/// The flags that can.
const RELOADED: [&str; 1] = ["log-level"];

/// The settings as they are now: command line, environment and file. An error is one that keeps an agent from starting.
pub type ReadSettings = Arc<dyn Fn() -> anyhow::Result<Reloaded> + Send + Sync>;

/// What was read.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// Which flags were given, and whether they were given the same.
    pub given: Given,
    /// What the operator calls the peers.
    pub names: BTreeMap<TokenId, String>,
    /// Which events are logged.
    pub level: LevelFilter,
}

/// What the running agent was started with, and how to change it.
pub struct Reloader {
    /// Reads the settings.
    pub read: ReadSettings,
    /// As read at the start.
    pub started: Reloaded,
    /// Changes the level.
    pub log: LogControl,
}

impl Reloader {
    /// Reads the settings at each signal, for ever, and puts the names into `names`.
    pub(super) async fn follow(
        self,
        mut hangup: Signal,
        names: watch::Sender<BTreeMap<TokenId, String>>,
    ) -> Infallible {
        loop {
            // There is no last one.
            hangup.recv().await;
            let read = Arc::clone(&self.read);
            match spawn_blocking(move || read()).await {
                Ok(Ok(now)) => {
                    tracing::info!("{}", outcome(&self.started, &now, &names.borrow()));
                    self.log.set_level(now.level);
                    names.send_if_modified(|known| std::mem::replace(known, now.names.clone()) != now.names);
                }
                Ok(Err(error)) => tracing::error!("settings are not reloaded, all stay as they are: {error:#}"),
                Err(error) => tracing::error!(%error, "settings are not reloaded"),
            }
        }
    }
}

/// One line for the log.
fn outcome(started: &Reloaded, now: &Reloaded, known: &BTreeMap<TokenId, String>) -> String {
    let changed = started.given.changed(&now.given);
    let mut parts = vec![format!("settings reloaded: log level {}", now.level)];
    if now.names != *known {
        parts.push(format!("{} peers have names", now.names.len()));
    }
    let waiting: Vec<_> = changed.iter().filter(|flag| !RELOADED.contains(&flag.as_str())).cloned().collect();
    if !waiting.is_empty() {
        parts.push(format!("NOT in effect before a restart: {}", waiting.join(", ")));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn read(file: &str) -> Reloaded {
        let settings = Layers { arguments: Vec::new(), variable: &|_| None, file: Some(("x".into(), file.to_owned())) };
        let settings = settings.read().unwrap();
        let level = settings.flags.log_level.map_or(LevelFilter::INFO, |level| level.0);
        Reloaded { given: settings.given, names: settings.names, level }
    }

    #[test]
    fn what_needs_a_restart_is_named_and_no_value_is_shown() {
        let started = read("rpc-url = [\"https://rpc.example/S3CRETKEY\"]\nkeepalive = 25\n[names]\n2 = \"a\"");
        let same = outcome(&started, &started, &started.names);
        assert_eq!(same, "settings reloaded: log level info");
        let now = read(
            "rpc-url = [\"https://rpc.example/OTHERKEY\"]\nlog-level = \"debug\"\nkeepalive = 25\nmtu = 1300\n[names]\n2 = \"b\"\n3 = \"c\"",
        );
        let line = outcome(&started, &now, &started.names);
        assert_eq!(
            line,
            "settings reloaded: log level debug; 2 peers have names; NOT in effect before a restart: mtu, rpc-url"
        );
        assert!(!format!("{started:?}{now:?}").contains("KEY"), "{started:?}");
        assert!(
            outcome(&now, &read(""), &now.names).contains("keepalive, mtu, rpc-url"),
            "what is taken out changes, too"
        );
    }
}
