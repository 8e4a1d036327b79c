//! Plain TLS through the gateway.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Values;
use crate::gateway::Behind;
use crate::process::eventually;

/// How much longer than its traffic a run may take.
const SPARE: Duration = Duration::from_secs(20);

/// The output of the receiving side.
#[derive(Deserialize)]
struct Received {
    bytes: f64,
    seconds: f64,
}

/// `gbit_s` received by one connection.
pub(crate) fn plain_tls(behind: &Behind, seconds: u32) -> Result<Values> {
    let server = behind.start_tls(1, seconds)?;
    // The connection is refused until the server listens.
    eventually("plain TLS goes through the gateway", || {
        let client = behind.start_tls(0, seconds)?;
        Ok(client.wait(Duration::from_secs(seconds.into()) + SPARE).ok())
    })?;
    let Received { bytes, seconds } = serde_json::from_str(&server.wait(SPARE)?).context("read what TLS carried")?;
    Ok(Values::from([("gbit_s", bytes * 8.0 / seconds / 1e9)]))
}
