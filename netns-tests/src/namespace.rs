//! A network namespace that is ours.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Context as _, Result};

use crate::process::Launch;

/// The kernel makes and removes namespaces one after the other, whoever asks.
const DEADLINE: Duration = Duration::from_secs(60);

/// A named network namespace, deleted when dropped: end the processes in it first.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with loopback up. Needs root.
    pub(crate) fn create(name: String) -> Result<Self> {
        Launch::new("ip").args(["netns", "add", &name]).finish(DEADLINE)?.success().with_context(|| {
            format!("make network namespace `{name}`\nhint: run as root (`make demo` and `make test` use sudo), and `make deps` once")
        })?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Names of all that there are, ours or not.
    pub fn list() -> Result<Vec<String>> {
        let list = Launch::new("ip").args(["netns", "list"]).finish(DEADLINE)?.success()?;
        // A name may be followed by an id in brackets.
        Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Removes one by its name.
    pub(crate) fn delete(name: &str) -> Result<()> {
        Launch::new("ip").args(["netns", "del", name]).finish(DEADLINE)?.success().map(drop)
    }

    /// Its name, as in `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to run in it.
    pub fn launch(&self, program: impl AsRef<OsStr>) -> Launch {
        Launch::new(program).namespace(&self.name)
    }

    /// `ip` in it, e.g. `addr show`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        Launch::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()).finish(DEADLINE)?.success()
    }

    /// Runs a program in it to its end.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        self.launch(program).args(arguments.split_whitespace()).finish(DEADLINE)?.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody can be told; `World::close` checks that it is gone.
        let _ = Self::delete(&self.name);
    }
}
