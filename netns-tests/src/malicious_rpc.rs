//! A running `malicious-rpc`, as tests hold it.

use std::{io::Write as _, net::SocketAddr, path::Path, process::ChildStdin, time::Duration};

use anyhow::{Context as _, Result, bail};

use testkit::{Namespace, Process, wait_until};

use crate::{binaries::Binaries, false_answers::FalseAnswers};

/// Dropping it ends it.
#[derive(Debug)]
pub struct MaliciousRpc {
    process: Process,
    orders: ChildStdin,
    url: String,
}

impl MaliciousRpc {
    /// Starts it in `hub` on `address` in front of `upstream`; it is honest until [`Self::answer_with`].
    pub(crate) fn start(
        binaries: &Binaries,
        hub: &Namespace,
        address: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Self> {
        let launch = hub.launch(&binaries.malicious_rpc).args([address.to_string(), upstream.to_string()]);
        let mut process = launch.start(&dir.join(format!("malicious-rpc-{}.log", address.port())))?;
        let orders = process.take_stdin().context("the proxy has no standard input")?;
        wait_until("the malicious RPC to listen", Duration::from_secs(60), || {
            if let Some(status) = process.exited()? {
                bail!("it ended with {status}: {}", process.log_tail(5));
            }
            process.log().contains("listening").then_some(()).context("not yet")
        })?;
        Ok(Self { process, orders, url: format!("http://{address}") })
    }

    /// What agents are given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes what it answers, and returns once it does.
    pub fn answer_with(&mut self, answers: &FalseAnswers) -> Result<()> {
        let before = self.count("order");
        writeln!(self.orders, "{}", serde_json::to_string(answers)?).context("configure the malicious RPC")?;
        wait_until("the malicious RPC to take its answers", Duration::from_secs(60), || {
            (self.count("order") > before).then_some(()).context("not yet")
        })?;
        Ok(())
    }

    /// How often it was asked for something: `eth_call`, `eth_getLogs`, `refused` (log ranges), `complained`, or `falsified`.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.process.log().lines().filter(|line| *line == what).count()
    }
}
