//! Resident memory under load.

use std::time::Duration;

use anyhow::Result;

use super::Values;
use super::iperf::Iperf;
use super::tcp;
use crate::plan::Measure;
use crate::process::pause;
use crate::tunnel::Tunnel;

/// Of the larger of the two processes: `start_kib` when the tunnel was just up, `load_kib` the largest sample under four TCP
/// streams, `peak_kib` the maximum that the kernel recorded.
pub(crate) fn measure(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let mut iperf = Iperf::start(tunnel, &tcp::options(Measure::Tcp4, seconds), seconds)?;
    let mut load = 0.0_f64;
    while iperf.running()? {
        load = load.max(tunnel.kib("VmRSS")?);
        pause(Duration::from_millis(100))?;
    }
    iperf.finish()?;
    Ok(Values::from([("start_kib", tunnel.start_kib), ("load_kib", load), ("peak_kib", tunnel.kib("VmHWM")?)]))
}
