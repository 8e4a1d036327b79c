//! What this process uses, as the kernel counts it (proc(5)): the metrics that every program has for Prometheus.

use std::{fs, io};

/// Ticks in a second, as the kernel counts for programs on every architecture that this runs on (USER_HZ).
const TICKS: f64 = 100.0;
const PROCESS: &str = "/proc/self";

/// What is known of it; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// User and system time of all threads.
    pub(super) cpu_seconds: Option<f64>,
    /// Unix time.
    pub(super) started: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl Usage {
    /// As of now.
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let of_process = |name: &str| text(&format!("{PROCESS}/{name}"));
        let usage = Self::parse(&of_process("stat"), &of_process("status"), &of_process("limits"), &text("/proc/stat"));
        Self { open_fds: open_fds().ok(), ..usage }
    }

    fn parse(stat: &str, status: &str, limits: &str, machine: &str) -> Self {
        let ticks = Ticks::of(stat);
        let booted: Option<f64> = field(machine, "btime ").and_then(|text| text.parse().ok());
        let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
        let bytes = |name| Some(number(field(status, name)?)? * 1024);
        Self {
            cpu_seconds: ticks.map(|ticks| ticks.used / TICKS),
            started: ticks.zip(booted).map(|(ticks, booted)| booted + ticks.started / TICKS),
            resident_bytes: bytes("VmRSS:"),
            virtual_bytes: bytes("VmSize:"),
            threads: field(status, "Threads:").and_then(number),
            open_fds: None,
            max_fds: field(limits, "Max open files").and_then(number),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Ticks {
    used: f64,
    /// Since the machine's start.
    started: f64,
}

impl Ticks {
    /// From fields that are numbered from 1; the second is the program's name, in parentheses, which may hold anything.
    fn of(stat: &str) -> Option<Self> {
        const FIRST_AFTER_NAME: usize = 3;
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - FIRST_AFTER_NAME)?.parse::<f64>().ok();
        let (user, system, started) = (field(14)?, field(15)?, field(22)?);
        Some(Self { used: user + system, started })
    }
}

/// The rest of the line that begins so.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn open_fds() -> io::Result<u64> {
    let listed = fs::read_dir(format!("{PROCESS}/fd"))?.count();
    // One of them is the directory itself.
    Ok(u64::try_from(listed.saturating_sub(1)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_where_the_kernel_puts_them() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 101 102 103 104 250 50 0 0 20 0 3 0 12345 1000000 250 \
                    18446744073709551615";
        let status = "Name:\tx\nVmPeak:\t 999 kB\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        let usage = Usage::parse(stat, status, limits, "cpu 1 2 3\nbtime 1700000000\nprocesses 5\n");
        let expected = Usage {
            cpu_seconds: Some(3.0),
            started: Some(1_700_000_123.45),
            resident_bytes: Some(1 << 20),
            virtual_bytes: Some(2 << 20),
            threads: Some(3),
            open_fds: None,
            max_fds: Some(1024),
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn what_the_kernel_does_not_say_is_unknown() {
        assert_eq!(Usage::parse("", "", "", ""), Usage::default());
        assert_eq!(Usage::parse("7 (x) R 1", "VmRSS:\n", "Max open files unlimited\n", "btime x\n"), Usage::default());
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.started.is_some_and(|at| at > now - 86_400.0 && at < now + 2.0), "{usage:?}");
        assert!(usage.resident_bytes > Some(0) && usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        assert!(usage.open_fds > Some(0) && usage.max_fds >= usage.open_fds && usage.threads > Some(0), "{usage:?}");
        assert!(usage.cpu_seconds.is_some(), "{usage:?}");
    }
}
