//! TCP throughput, and its cost in processor time.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Values;
use super::iperf::{self, Iperf};
use crate::plan::Measure;
use crate::tunnel::Tunnel;

const GIGA: f64 = 1e9;

/// iperf3's options for one of the TCP measurements.
pub(crate) fn options(what: Measure, seconds: u32) -> Vec<String> {
    let more: &[&str] = match what {
        Measure::Tcp4 => &["-P", "4"],
        Measure::Rev => &["-R"],
        // Written at once and sent at once, so that no two become one segment before the tunnel is slower than they are. With writes of
        // 256 bytes it is iperf3 that takes the machine: without a tunnel it is then 1.4 times as fast as through wireguard-go.
        Measure::Flows => &["-P", "64", "-l", "1K", "-N"],
        Measure::Tcp1
        | Measure::Udp
        | Measure::Vxlan
        | Measure::Burst
        | Measure::Ping
        | Measure::PingLoad
        | Measure::Memory
        | Measure::Gateway
        | Measure::GatewayPing
        | Measure::Peers(_)
        | Measure::Unanswered(_) => &[],
    };
    iperf::options(seconds, more)
}

/// `gbit_s` received, `cpu_s_per_gb` of the two tunnel processes, `busy_s_per_gb` of the whole machine, `retransmits`.
pub(crate) fn measure(what: Measure, tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    measure_to(tunnel.address, what, tunnel, seconds)
}

/// The same to another address of the server.
pub(super) fn measure_to(address: &str, what: Measure, tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let (cpu, busy) = (tunnel.cpu_time()?, busy_time()?);
    let report = Iperf::start_to(address, tunnel, &options(what, seconds), seconds)?.finish()?;
    let (cpu, busy) = (tunnel.cpu_time()? - cpu, busy_time()? - busy);
    let gigabytes = report.end("sum_received/bytes")? / GIGA;
    let mut values = Values::from([
        ("gbit_s", report.end("sum_received/bits_per_second")? / GIGA),
        ("busy_s_per_gb", busy.as_secs_f64() / gigabytes),
        ("retransmits", report.end("sum_sent/retransmits")?),
    ]);
    if !tunnel.ends.is_empty() {
        values.insert("cpu_s_per_gb", cpu.as_secs_f64() / gigabytes);
    }
    Ok(values)
}

/// Time that all processors together were not idle, from `/proc/stat` (proc(5): ticks of 10 ms of user, nice, system, idle,
/// iowait, irq, softirq).
fn busy_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_ticks(&stat).map(|ticks| Duration::from_millis(ticks * 10)).context("/proc/stat has no processor time")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy_time() {
        assert_eq!(busy_ticks("cpu  100 20 3 4000 500 6 7 0 0 0\ncpu0 1 1 1 1 1 1 1\n"), Some(136));
        assert_eq!(busy_ticks("cpu  100 20"), None);
    }
}
