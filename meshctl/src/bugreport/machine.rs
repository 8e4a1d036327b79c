//! What of the machine decides how an agent works: kernel, devices and limits. Read from files alone.

use std::{fs, path::Path};

/// Kernel settings that decide how fast packets travel, and where they may.
const SETTINGS: [&str; 12] = [
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ping_group_range",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv6/conf/all/disable_ipv6",
    "net/netfilter/nf_conntrack_max",
    "user/max_user_namespaces",
    "kernel/random/entropy_avail",
];

/// What an agent needs, and where it is.
const PLACES: [(&str, &str); 6] = [
    ("TUN device", "/dev/net/tun"),
    ("WireGuard in the kernel", "/sys/module/wireguard"),
    ("nf_tables in the kernel", "/sys/module/nf_tables"),
    ("dstack guest agent", "/var/run/dstack.sock"),
    ("tappd, of dstack before 0.4", "/var/run/tappd.sock"),
    ("systemd", "/run/systemd/system"),
];

/// The machine, line by line. What cannot be read is said to be so.
pub(crate) fn machine(root: &Path) -> String {
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).map_or_else(|error| format!("({error})"), |text| text.trim().to_owned())
    };
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "unknown".to_owned(), |value| value.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
    };
    let (processor, memory) = (read("proc/cpuinfo"), read("proc/meminfo"));
    let cores = processor.lines().filter(|line| line.starts_with("processor")).count();
    let mut lines = vec![
        format!("system: {}", field(&read("etc/os-release"), "PRETTY_NAME")),
        format!("kernel: {} {}", read("proc/sys/kernel/osrelease"), std::env::consts::ARCH),
        format!("processor: {}, {cores} threads", field(&processor, "model name")),
        format!("memory: {}, available {}", field(&memory, "MemTotal"), field(&memory, "MemAvailable")),
        format!("load: {}", read("proc/loadavg")),
        format!("up: {} s", read("proc/uptime").split(' ').next().unwrap_or_default()),
    ];
    lines.extend(PLACES.map(|(what, path)| {
        let there = root.join(path.trim_start_matches('/')).exists();
        format!("{what}: {} ({path})", if there { "yes" } else { "no" })
    }));
    lines.extend(SETTINGS.map(|name| {
        let value = read(&format!("proc/sys/{name}"));
        format!("{} = {}", name.replace('/', "."), value.replace('\t', " "))
    }));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let text = machine(Path::new("/"));
        assert!(text.contains("kernel: ") && !text.contains("kernel: ("), "{text}");
        assert!(text.contains("net.core.rmem_max = "), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_said_to_be_so() {
        let text = machine(Path::new("/nonexistent"));
        assert!(text.contains("system: unknown\n") && text.contains("TUN device: no"), "{text}");
        assert!(text.contains("net.core.rmem_max = (No such file"), "{text}");
    }
}
