//! `iperf3` between the two sides of a tunnel, one server for each run.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::command_in;
use crate::process::{Job, eventually};
use crate::tunnel::Tunnel;

/// How much longer than its traffic a run may take.
const SPARE: Duration = Duration::from_secs(20);

/// As `/proc/net/tcp` writes the port that iperf3 listens on (5201) and the state of listening.
const LISTENING: (&str, &str) = (":1451", "0A");

/// A run under way.
pub(crate) struct Iperf {
    client: Job,
    server: Job,
    length: Duration,
}

impl Iperf {
    /// Starts a server, waits until it listens, and starts the client with `options` for `seconds`.
    pub(crate) fn start(tunnel: &Tunnel, options: &[String], seconds: u32) -> Result<Self> {
        Self::start_to(tunnel.address, tunnel, options, seconds)
    }

    /// The same to another address of the server.
    pub(crate) fn start_to(address: &str, tunnel: &Tunnel, options: &[String], seconds: u32) -> Result<Self> {
        let mut server = Job::start(command_in(&tunnel.wire.server, "iperf3", &["-s", "-1", "-i", "0"]))?;
        let pid = server.pid();
        eventually("iperf3 listens", || {
            if !server.running()? {
                bail!("the iperf3 server ended at once");
            }
            Ok(["tcp6", "tcp"].iter().any(|table| listens(pid, table)).then_some(()))
        })?;
        let arguments: Vec<&str> = ["-c", address].into_iter().chain(options.iter().map(String::as_str)).collect();
        let client = Job::start(command_in(&tunnel.wire.client, "iperf3", &arguments))?;
        Ok(Self { client, server, length: Duration::from_secs(seconds.into()) })
    }

    /// Whether the client is still running.
    pub(crate) fn running(&mut self) -> Result<bool> {
        self.client.running()
    }

    /// The client's report at the end.
    pub(crate) fn finish(self) -> Result<Report> {
        let text = self.client.wait(self.length + SPARE)?;
        self.server.wait(SPARE)?;
        Report::parse(&text)
    }
}

/// The options of every run: a report in JSON, without interim reports.
pub(crate) fn options(seconds: u32, more: &[&str]) -> Vec<String> {
    let seconds = seconds.to_string();
    let all = [&["-J", "-i", "0", "-t", &seconds], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// The command as a person types it.
pub(crate) fn words(options: &[String]) -> String {
    format!("iperf3 -c ADDRESS {}", options.join(" "))
}

/// Whether a process in the namespace listens on the port.
fn listens(pid: u32, table: &str) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let fields = table.lines().map(|line| line.split_whitespace().skip(1));
    fields.into_iter().any(|mut fields| {
        let (local, _remote, state) = (fields.next(), fields.next(), fields.next());
        local.is_some_and(|local| local.ends_with(LISTENING.0)) && state == Some(LISTENING.1)
    })
}

/// iperf3's report in JSON.
#[derive(Debug)]
pub(crate) struct Report(Value);

impl Report {
    fn parse(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text).context("read iperf3's report")?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3: {error}");
        }
        Ok(Self(report))
    }

    /// A number of its `end` object, e.g. `sum_received/bytes`.
    pub(crate) fn end(&self, path: &str) -> Result<f64> {
        let value = self.0.pointer(&format!("/end/{path}")).and_then(Value::as_f64);
        value.with_context(|| format!("iperf3's report has no number end/{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_or_refused() {
        let report =
            Report::parse(r#"{"start":{},"end":{"sum_received":{"bytes":12,"bits_per_second":9.5}}}"#).unwrap();
        assert_eq!(report.end("sum_received/bytes").unwrap(), 12.0);
        assert!(report.end("sum_sent/bytes").unwrap_err().to_string().contains("sum_sent/bytes"));
        let error = Report::parse(r#"{"end":{},"error":"unable to connect"}"#).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
        assert!(Report::parse("iperf3: error").is_err());
    }
}
