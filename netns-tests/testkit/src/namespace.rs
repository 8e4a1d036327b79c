//! A network namespace of a test's own.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::AsFd as _,
    panic::resume_unwind,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Launch;

/// The kernel makes and removes namespaces one after the other, for all processes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A name that no other test has, of a namespace or an interface: short enough for an interface's 15 bytes.
#[must_use]
pub fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A named network namespace, deleted when dropped: end the processes in it first.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with loopback up. Needs root.
    pub fn create(name: String) -> Result<Self> {
        Launch::new("ip").args(["netns", "add", &name]).finish(DEADLINE)?.success().with_context(|| {
            format!("make network namespace `{name}`\nhint: run as root (`make demo` and `make test` use sudo), and `make deps` once")
        })?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes one with a name that begins with `prefix` and that no other test has.
    pub fn unique(prefix: &str) -> Result<Self> {
        Self::create(unique_name(prefix))
    }

    /// Names of all that there are, also of other programs.
    pub fn list() -> Result<Vec<String>> {
        let list = Launch::new("ip").args(["netns", "list"]).finish(DEADLINE)?.success()?;
        // A name may be followed by an id in brackets.
        Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Removes one by its name.
    pub fn delete(name: &str) -> Result<()> {
        Launch::new("ip").args(["netns", "del", name]).finish(DEADLINE)?.success().map(drop)
    }

    /// Its name, as in `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to run in it, which ends when this process does.
    pub fn launch(&self, program: impl AsRef<OsStr>) -> Launch {
        Launch::new(program).namespace(&self.name)
    }

    /// A program to run in it, as the standard library starts programs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// `ip` in it, e.g. `addr show`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        Launch::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()).finish(DEADLINE)?.success()
    }

    /// Runs a program in it to its end.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        self.launch(program).args(arguments.split_whitespace()).finish(DEADLINE)?.success()
    }

    /// Moves the calling thread, and those it starts from now on, into it.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {path}"))
    }

    /// Does `work` in a thread that lives in the namespace. Sockets made there stay there.
    ///
    /// # Panics
    /// When the namespace cannot be entered, and as `work` does.
    pub fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            self.enter().unwrap_or_else(|error| panic!("{error:#}"));
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // There is no caller to report an error to; a leftover namespace has a name of its own and disturbs no later test.
        let _ = Self::delete(&self.name);
    }
}
