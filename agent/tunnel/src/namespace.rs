//! A network namespace of a test's own.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// It goes when this is dropped. Making one needs root.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = Self(format!("wu{:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        namespace.ip(&format!("netns add {}", namespace.0));
        namespace
    }

    /// A name that no other has: of the namespace, and free for an interface.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Moves the calling thread, and those it starts, into it.
    pub(crate) fn enter(&self) {
        sys::enter_network_namespace(&File::open(format!("/run/netns/{}", self.0)).unwrap()).unwrap();
        self.ip("link set lo up");
    }

    /// What `ip` says, called in the namespace of the calling thread.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`ip {arguments}`: {said}\nhint: these tests must run as root");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
