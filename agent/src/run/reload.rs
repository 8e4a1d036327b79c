//! SIGHUP: the settings are read again. What can change while the agent runs does; what cannot is named.

use std::{convert::Infallible, sync::Arc};

use mesh_chain::cut_urls;
use mesh_core::agent::Adjustments;
use tokio::{signal::unix::Signal, sync::watch, task::spawn_blocking};
use tracing_subscriber::filter::LevelFilter;

use super::process::LogControl;
use crate::config::Given;

/// The flags that can change.
const RELOADED: [&str; 5] = ["halt-deadline", "keepalive", "log-level", "on-registry-expiry", "registry-deadline"];

/// The settings as they are now: command line, environment and file. An error is one that keeps an agent from starting.
pub type ReadSettings = Arc<dyn Fn() -> anyhow::Result<Reloaded> + Send + Sync>;

/// What was read.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// Which flags were given, and whether they were given the same.
    pub given: Given,
    /// What the core is told of it.
    pub adjustments: Adjustments,
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
    /// Reads the settings at each signal, for ever, and hands over what has changed.
    pub(super) async fn follow(self, mut hangup: Signal, adjust: watch::Sender<Adjustments>) -> Infallible {
        let mut last = self.started.clone();
        loop {
            // There is no last one.
            hangup.recv().await;
            let read = Arc::clone(&self.read);
            match spawn_blocking(move || read()).await {
                Ok(Ok(now)) => {
                    // The line is seen at either level.
                    self.log.set_level(last.level.max(now.level));
                    tracing::info!("{}", outcome(&self.started, &last, &now));
                    self.log.set_level(now.level);
                    adjust
                        .send_if_modified(|known| std::mem::replace(known, now.adjustments.clone()) != now.adjustments);
                    last = now;
                }
                Ok(Err(error)) => {
                    // What does not parse is quoted, and may be a URL with a key.
                    let error = cut_urls(&format!("{error:#}"));
                    tracing::error!("settings are not reloaded, all stay as they are: {error}");
                }
                Err(error) => tracing::error!(%error, "settings are not reloaded"),
            }
        }
    }
}

/// One line for the log.
fn outcome(started: &Reloaded, last: &Reloaded, now: &Reloaded) -> String {
    let is_reloaded = |flag: &String| RELOADED.contains(&flag.as_str());
    let mut taken: Vec<_> = last.given.changed(&now.given).into_iter().filter(is_reloaded).collect();
    if last.adjustments.names != now.adjustments.names {
        taken.push("[names]".to_owned());
    }
    let waiting: Vec<_> = started.given.changed(&now.given).into_iter().filter(|flag| !is_reloaded(flag)).collect();
    let mut line = "settings reloaded: ".to_owned();
    line += &if taken.is_empty() { "nothing new".to_owned() } else { format!("{} in effect", taken.join(", ")) };
    if !waiting.is_empty() {
        line += &format!("; NOT in effect before a restart: {}", waiting.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Homes, Layers};

    fn read(file: &str) -> Reloaded {
        let file = format!("{file}\n[names]\n2 = \"redis-1\"");
        let settings = Layers { arguments: Vec::new(), variable: &|_| None, file: Some(("x".into(), file)) };
        let settings = settings.read().unwrap();
        let level = settings.flags.log_level.map_or(LevelFilter::INFO, |level| level.0);
        let config = Config::resolve(settings.flags, settings.names, &Homes::of(0, |_| None)).unwrap();
        Reloaded { given: settings.given, adjustments: config.adjustments(), level }
    }

    #[test]
    fn what_takes_effect_and_what_needs_a_restart_is_named_and_no_value_is_shown() {
        let started = read("rpc-url = [\"https://rpc.example/S3CRETKEY\"]\nkeepalive = 25");
        assert_eq!(outcome(&started, &started, &started), "settings reloaded: nothing new");
        let second = read(
            "rpc-url = [\"https://rpc.example/OTHERKEY\"]\nlog-level = \"debug\"\nkeepalive = 40\nmtu = 1300\nregistry-deadline = \"2h\"",
        );
        let line = "settings reloaded: keepalive, log-level, registry-deadline in effect; NOT in effect before a restart: mtu, rpc-url";
        assert_eq!(outcome(&started, &started, &second), line);
        assert_eq!(second.adjustments.keepalive, 40);
        assert!(!format!("{started:?}{second:?}").contains("KEY"), "{started:?}");
        // What was taken back is as it was at the start.
        let line = "settings reloaded: keepalive, log-level, registry-deadline in effect";
        assert_eq!(outcome(&started, &second, &started), line);
        let mut renamed = started.clone();
        renamed.adjustments.names.clear();
        assert_eq!(outcome(&started, &started, &renamed), "settings reloaded: [names] in effect");
    }
}
