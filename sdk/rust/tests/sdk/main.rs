//! The Rust SDK against fake agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod election;
mod launch;
mod monitor;
mod peers;
mod register;
mod tls;

use std::{path::Path, time::Duration};

use dstack_p2p::{Builder, DstackP2p};
use testkit::Scratch;
use tokio::time::{Instant, sleep};

/// The machine may be stalled, or busy with other work.
const PATIENCE: Duration = Duration::from_secs(90);
/// For what does not come.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// This node, with the agent of that socket and no program to start one.
fn node(socket: &Path, mode: &str) -> Builder {
    let none: [&str; 0] = [];
    DstackP2p::builder(agent::CONTRACT, mode).socket(socket).agent(none).restart_within(PATIENCE).agent_within(PATIENCE)
}

/// Polls until it is so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
