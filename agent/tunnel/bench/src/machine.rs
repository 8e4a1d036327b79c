//! The machine on which the numbers were measured, without names or paths.

use std::fs;

use anyhow::Result;
use serde::Serialize;

use crate::process::run;

/// The machine and the day.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    kernel: String,
    cpu: String,
    cores: usize,
    /// Whether it has AVX-512, which some implementations of ChaCha20-Poly1305 use and others do not.
    pub(crate) avx512: bool,
    memory_mib: u64,
    congestion_control: String,
    iperf3: String,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let cpu = read("/proc/cpuinfo");
        let kib = field(&read("/proc/meminfo"), "MemTotal");
        Ok(Self {
            date: run("date", &["-u", "+%F"])?.trim().to_owned(),
            // A local suffix of the build is of no interest to others.
            kernel: read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().to_owned(),
            cpu: field(&cpu, "model name"),
            avx512: field(&cpu, "flags").split_whitespace().any(|flag| flag == "avx512f"),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: kib.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
                / 1024,
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            iperf3: run("iperf3", &["--version"])?.lines().next().unwrap_or_default().to_owned(),
        })
    }
}
