//! The Rust SDK against agents that are made up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod election;
mod launch;
mod monitor;
mod peers;
mod register;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dstack_p2p::{Builder, DstackP2p};
use tokio::time::{Instant, sleep};

/// The machine may stand still, and be shared by many.
const PATIENCE: Duration = Duration::from_secs(90);
/// For what does not come.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// This node, with the agent of that socket and no program to start one.
fn node(socket: &Path, mode: &str) -> Builder {
    let none: [&str; 0] = [];
    DstackP2p::builder(agent::CONTRACT, mode).socket(socket).agent(none).restart_within(PATIENCE).agent_within(PATIENCE)
}

/// Looks again and again, until it is so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A directory of this test's own, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dstack-p2p-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // A test that was killed may have left one, and its process id is ours now.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
