//! Round trip times, idle and under load.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Values;
use super::iperf::Iperf;
use super::tcp;
use crate::lab::command_in;
use crate::plan::Measure;
use crate::process::{Job, SHORT, pause};
use crate::tunnel::Tunnel;

/// From the start of the load to the first ping.
const HEAD_START: Duration = Duration::from_millis(500);
/// The length of the load in seconds: more than the pings beside it take.
const LOAD_S: u32 = 60;

/// `ping`'s options for `count` pings, `interval` seconds apart.
pub(crate) fn options(interval: &str, count: u32) -> Vec<String> {
    ["-n", "-i", interval, "-c", &count.to_string(), "-W", "2"].map(str::to_owned).to_vec()
}

/// The command as a person types it.
pub(crate) fn words(options: &[String]) -> String {
    format!("ping {} ADDRESS", options.join(" "))
}

/// `p50_ms`, `p99_ms` and `max_ms` of `count` pings, 5 ms apart, and how many were `lost`.
pub(crate) fn idle(tunnel: &Tunnel, count: u32) -> Result<Values> {
    ping(tunnel, "0.005", count)
}

/// The same of pings 20 ms apart, beside one TCP stream that is ended after the last of them.
pub(crate) fn under_load(tunnel: &Tunnel, count: u32) -> Result<Values> {
    let mut iperf = Iperf::start(tunnel, &load(), LOAD_S)?;
    pause(HEAD_START)?;
    let values = ping(tunnel, "0.02", count)?;
    if !iperf.running()? {
        iperf.finish()?;
        bail!("the load ended before the pings did");
    }
    Ok(values)
}

/// iperf3's options for the load.
pub(crate) fn load() -> Vec<String> {
    tcp::options(Measure::Tcp1, LOAD_S)
}

fn ping(tunnel: &Tunnel, interval: &str, count: u32) -> Result<Values> {
    let options = options(interval, count);
    let arguments: Vec<&str> = options.iter().map(String::as_str).chain([tunnel.address]).collect();
    let output = Job::start(command_in(&tunnel.wire.client, "ping", &arguments))?.wait(SHORT)?;
    let mut times = times(&output);
    times.sort_by(f64::total_cmp);
    let at = |percent| percentile(&times, percent).context("no ping was answered");
    let lost = f64::from(count) - times.len() as f64;
    Ok(Values::from([("p50_ms", at(50)?), ("p99_ms", at(99)?), ("max_ms", at(100)?), ("lost", lost)]))
}

fn times(output: &str) -> Vec<f64> {
    let times = output.lines().filter_map(|line| line.split_once(" time=")?.1.split_whitespace().next()?.parse().ok());
    times.collect()
}

/// The smallest of the sorted values that is not below `percent` per cent of them.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_what_ping_prints() {
        let output = "PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.\n\
                      64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.116 ms\n\
                      64 bytes from 10.77.0.2: icmp_seq=2 ttl=64 time=12 ms\n\n\
                      --- 10.77.0.2 ping statistics ---\n\
                      2 packets transmitted, 2 received, 0% packet loss, time 5ms\n";
        assert_eq!(times(output), [0.116, 12.0]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|p| percentile(&hundred, p)), [Some(50.0), Some(99.0), Some(100.0)]);
        assert_eq!([50, 99].map(|p| percentile(&[7.0], p)), [Some(7.0), Some(7.0)]);
        assert_eq!(percentile(&[], 50), None);
    }
}
