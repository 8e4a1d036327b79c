//! The guest agents of a world.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use testkit::{Launch, Process, wait_until};

use crate::binaries::Binaries;

/// A running `dstack-simulator`.
#[derive(Debug)]
pub struct Simulator {
    /// What it said about itself.
    pub announcement: Announcement,
    _process: Process,
}

/// The simulator's first line.
#[derive(Debug, Clone, Deserialize)]
pub struct Announcement {
    /// Always true.
    pub simulated: bool,
    /// Address of the KMS root key.
    pub kms_root: String,
    /// The app all instances belong to.
    pub app_id: String,
    /// One per node.
    pub instances: Vec<Instance>,
}

/// One simulated CVM.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    /// 1-based.
    pub index: usize,
    /// 40 hex digits.
    pub instance_id: String,
    /// Its guest agent.
    pub dstack_sock: PathBuf,
}

impl Simulator {
    /// Serves `instances` CVMs of the app `app_id` below `dir`, and waits until they answer. `more` are flags of its own.
    pub(crate) fn start(
        binaries: &Binaries,
        dir: &Path,
        app_id: &str,
        seed: &str,
        instances: usize,
        more: &[&str],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let log = dir.join("simulator.log");
        let mut launch = Launch::new(&binaries.simulator).arg("--dir").arg(dir);
        launch = launch.args(["--app-id", app_id, "--seed", seed, "--instances", &instances.to_string()]).args(more);
        let mut process = launch.start(&log)?;
        let (announcement, _) = wait_until("the simulator's first line", Duration::from_secs(60), || {
            if let Some(status) = process.exited()? {
                anyhow::bail!("it ended with {status}\n{}", process.log_tail(20));
            }
            let log = process.log();
            let line = log.lines().find(|line| line.starts_with('{')).context("nothing yet")?;
            serde_json::from_str(line).with_context(|| format!("read `{line}`"))
        })?;
        Ok(Self { announcement, _process: process })
    }

    /// The instance of a node, 1-based.
    pub fn instance(&self, node: usize) -> Result<&Instance> {
        let instances = &self.announcement.instances;
        instances.iter().find(|i| i.index == node).with_context(|| format!("the simulator has no instance {node}"))
    }
}
