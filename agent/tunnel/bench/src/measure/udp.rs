//! The highest rate of 1200-byte datagrams at which hardly any is lost.
//!
//! The rate is found in steps of 6 %, and the processor time is that of the rate found: what a gigabyte costs falls as the
//! rate rises. Two builds are to be compared at one rate (`iperf3 -u -b`), or by instructions per packet (callgrind).

use std::fs;

use anyhow::{Context as _, Result};

use super::Values;
use super::iperf::{self, Iperf};
use crate::tunnel::Tunnel;

/// Payload of a datagram.
const DATAGRAM: u32 = 1200;
/// A rate passes while at most so many per cent are lost …
const LOSS_PERCENT: f64 = 0.1;
/// … and the sender sends at least this part of the requested rate.
const SENT: f64 = 0.95;
/// The search ends when the lowest rate that failed is at most this many times the highest that passed.
const CLOSE: f64 = 1.06;
/// The rates at which the search begins and gives up, in Mbit/s.
const FIRST: f64 = 300.0;
const LEAST: f64 = 1.0;
const MOST: f64 = 40_000.0;
/// A rate has failed when it failed so often in a row: other load of the machine may cause a loss.
const TRIES: u32 = 2;

/// iperf3's options for one step, with `rate` as iperf3 writes it.
pub(crate) fn options(rate: &str, seconds: u32) -> Vec<String> {
    let (datagram, window) = (DATAGRAM.to_string(), window().to_string());
    iperf::options(seconds, &["-u", "-l", &datagram, "-w", &window, "-b", rate])
}

/// `mbit_s` of payload, and `cpu_s_per_gb` of the tunnel processes at that rate.
pub(crate) fn measure(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let (rate, cpu) = search(|rate| {
        for _ in 0..TRIES {
            if let Some(cpu) = step(tunnel, rate, seconds)? {
                return Ok(Some(cpu));
            }
        }
        Ok(None)
    })?;
    let mut values = Values::from([("mbit_s", rate)]);
    if !tunnel.ends.is_empty() {
        values.insert("cpu_s_per_gb", cpu);
    }
    Ok(values)
}

/// What arrives where more is sent than the tunnel carries: `mbit_s` of payload, and `cpu_s_per_gb` of the tunnel processes.
pub(crate) fn burst(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let cpu = tunnel.cpu_time()?;
    let report = Iperf::start(tunnel, &options("0", seconds), seconds)?.finish()?;
    let cpu = tunnel.cpu_time()? - cpu;
    let arrived = report.end("sum/packets")? - report.end("sum/lost_packets")?;
    let bytes = arrived * f64::from(DATAGRAM);
    let mut values = Values::from([("mbit_s", bytes * 8.0 / 1e6 / report.end("sum/seconds")?)]);
    if !tunnel.ends.is_empty() {
        values.insert("cpu_s_per_gb", cpu.as_secs_f64() / (bytes / 1e9));
    }
    Ok(values)
}

/// Processor seconds per gigabyte if the rate, in Mbit/s, passes.
fn step(tunnel: &Tunnel, rate: f64, seconds: u32) -> Result<Option<f64>> {
    let cpu = tunnel.cpu_time()?;
    let report = Iperf::start(tunnel, &options(&format!("{rate:.1}M"), seconds), seconds)?.finish()?;
    let cpu = tunnel.cpu_time()? - cpu;
    let bytes = report.end("sum/packets")? * f64::from(DATAGRAM);
    let sent = bytes * 8.0 / 1e6 / report.end("sum/seconds")?;
    let passes = report.end("sum/lost_percent")? <= LOSS_PERCENT && sent >= SENT * rate;
    Ok(passes.then(|| cpu.as_secs_f64() / (bytes / 1e9)))
}

/// The highest rate that passes, and its value: the rate is doubled until one fails (or halved until one passes), then bisected.
fn search<T>(mut step: impl FnMut(f64) -> Result<Option<T>>) -> Result<(f64, T)> {
    let mut passed = None;
    let mut failed = None;
    let mut rate = FIRST;
    while (LEAST..MOST).contains(&rate) {
        match step(rate)? {
            Some(found) => passed = Some((rate, found)),
            None => failed = Some(rate),
        }
        rate = match (&passed, failed) {
            (Some((passed, _)), Some(failed)) if failed / passed <= CLOSE => break,
            (Some((passed, _)), Some(failed)) => (passed * failed).sqrt(),
            (Some((passed, _)), None) => passed * 2.0,
            (None, _) => rate / 2.0,
        };
    }
    passed.with_context(|| format!("datagrams are lost even at {LEAST} Mbit/s"))
}

/// The requested socket buffer: 4 MiB, or the maximum of this machine. (iperf3 fails when it gets less.)
fn window() -> u32 {
    let limit = |name| fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse::<u32>().ok();
    let limits = ["rmem_max", "wmem_max"].into_iter().filter_map(limit);
    limits.fold(4 << 20, u32::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_ends_just_below_the_limit_wherever_it_is() {
        for limit in [7.0, 290.0, 300.0, 310.0, 1000.0, 39_000.0] {
            let mut steps = 0;
            let (rate, found) = search(|rate| {
                steps += 1;
                Ok((rate <= limit).then_some(rate))
            })
            .unwrap();
            assert_eq!(rate, found);
            assert!(rate <= limit && (rate * CLOSE >= limit || rate * 2.0 >= MOST), "{rate} for {limit}");
            assert!(steps <= 16, "{steps} steps for {limit}");
        }
    }

    #[test]
    fn a_tunnel_that_loses_everything_is_an_error() {
        assert!(search::<()>(|_| Ok(None)).is_err());
    }
}
