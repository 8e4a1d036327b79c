//! Captures of what really crosses a link.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use testkit::{Process, wait_until};

use crate::node::Node;

/// A running `tcpdump` on one interface of a node.
#[derive(Debug)]
pub struct Capture {
    process: Process,
}

impl Capture {
    /// Captures packets that match `filter` on `interface`, from now on: returns when the capture is live.
    pub fn start(node: &Node, interface: &str, filter: &str) -> Result<Self> {
        let log =
            node.dir().join(format!("capture-{interface}-{}.log", filter.replace(|c: char| !c.is_alphanumeric(), "_")));
        // It stays root: the parent-death signal is lost when a process changes its user.
        let flags = ["-n", "-l", "--immediate-mode", "-tt", "-Z", "root", "-i", interface, filter];
        let launch = node.namespace.launch("tcpdump").args(flags);
        let mut process = launch.start(&log)?;
        wait_until("tcpdump to listen", Duration::from_secs(60), || {
            if let Some(status) = process.exited()? {
                bail!("it ended with {status}: {}", process.log_tail(5));
            }
            if !process.log().contains("listening on") {
                bail!("not yet");
            }
            Ok(())
        })?;
        Ok(Self { process })
    }

    /// One line per packet so far.
    #[must_use]
    pub fn packets(&self) -> Vec<String> {
        self.packets_since(UNIX_EPOCH)
    }

    /// The same, of packets that crossed the interface after this moment: by the kernel's timestamps, however late `tcpdump` prints them.
    #[must_use]
    pub fn packets_since(&self, from: SystemTime) -> Vec<String> {
        let log = self.process.log();
        let stamp = |line: &str| Duration::try_from_secs_f64(line.split_whitespace().next()?.parse().ok()?).ok();
        let is_later = |line: &&str| stamp(line).is_some_and(|seconds| UNIX_EPOCH + seconds >= from);
        log.lines()
            .filter(is_later)
            .filter(|line| line.contains(" IP") || line.contains("ARP"))
            .map(str::to_owned)
            .collect()
    }
}
