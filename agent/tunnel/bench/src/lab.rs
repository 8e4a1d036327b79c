//! Namespaces and the wire between them. Each has a name that no other run uses, and is removed when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use testkit::{Namespace, Scratch};

use crate::process::{command, run};

/// The MTU of every wire.
pub(crate) const WIRE_MTU: u32 = 1500;
/// The MTU of every tunnel, the same for all implementations.
pub(crate) const TUNNEL_MTU: u32 = 1420;

const PREFIX: &str = "tb-";

/// The directory in which every userspace WireGuard makes its UAPI socket.
const SOCKETS: &str = "/var/run/wireguard";

/// A number that is unique in this run.
fn next() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A name for a tunnel interface. Its UAPI socket lies where those of all namespaces lie.
pub(crate) fn interface_name() -> String {
    format!("tb{:x}n{}", std::process::id(), next())
}

/// The UAPI socket of a tunnel interface.
pub(crate) fn socket_path(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(interface).with_extension("sock")
}

/// Removes what a killed run left behind; its processes died with it.
pub(crate) fn remove_leftovers() -> Result<()> {
    let namespaces = run("ip", &["netns", "list"]).context("list network namespaces")?;
    for name in namespaces.lines().filter_map(|line| line.split_whitespace().next()) {
        if is_leftover(name) {
            run("ip", &["netns", "del", name])?;
        }
    }
    for directory in [Path::new(SOCKETS), &std::env::temp_dir()] {
        // Before the first socket is made, there is no such directory.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_leftover(&entry.file_name().to_string_lossy()) {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.with_context(|| format!("remove `{}`, which an earlier run left", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Whether a name is one of a run whose process is gone: `tb-PID…`, or `tbHEXn…` for an interface's socket.
fn is_leftover(name: &str) -> bool {
    let pid = match name.strip_prefix(PREFIX) {
        Some(rest) => rest.split('-').next().and_then(|pid| pid.parse().ok()),
        None => name.strip_prefix("tb").and_then(|rest| u32::from_str_radix(rest.split_once('n')?.0, 16).ok()),
    };
    pid.is_some_and(|pid: u32| !Path::new("/proc").join(pid.to_string()).exists())
}

/// A network namespace with loopback up, deleted when dropped: end the processes in it first.
pub(crate) fn new_namespace() -> Result<Namespace> {
    let name = format!("{PREFIX}{}-{}", std::process::id(), next());
    Namespace::create(name).context("make a network namespace\nhint: `make bench` does it as root")
}

/// A program to run in a namespace.
pub(crate) fn command_in(namespace: &Namespace, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = command("ip", &["netns", "exec", namespace.name()]);
    command.arg(program.as_ref()).args(arguments);
    command
}

/// A directory for keys, configurations and logs.
pub(crate) fn new_scratch() -> Result<Scratch> {
    Scratch::named(PREFIX.trim_end_matches('-')).context("make a directory for keys, configurations and logs")
}

/// Two namespaces and the wire between them, `eth0` on both sides: 192.0.2.1 is the client's, 192.0.2.2 the server's.
pub(crate) struct Wire {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
}

impl Wire {
    pub(crate) fn create() -> Result<Self> {
        let wire = Self { client: new_namespace()?, server: new_namespace()? };
        let far = wire.server.name();
        wire.client.ip(&format!("link add eth0 mtu {WIRE_MTU} type veth peer name eth0 mtu {WIRE_MTU} netns {far}"))?;
        for (namespace, address) in [(&wire.client, outer(0)), (&wire.server, outer(1))] {
            namespace.ip(&format!("addr add {address}/24 dev eth0"))?;
            namespace.ip("link set eth0 up")?;
        }
        Ok(wire)
    }

    /// The namespace of the client (0) or of the server (1).
    pub(crate) fn side(&self, side: usize) -> &Namespace {
        if side == 0 { &self.client } else { &self.server }
    }
}

/// The address of a side on the wire.
pub(crate) fn outer(side: usize) -> &'static str {
    ["192.0.2.1", "192.0.2.2"][side]
}

/// The address of a side in the tunnel.
pub(crate) fn inner(side: usize) -> &'static str {
    ["10.77.0.1", "10.77.0.2"][side]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_left_is_a_leftover() {
        let own = std::process::id();
        for kept in
            [format!("tb-{own}-3"), format!("tb-{own}"), interface_name() + ".sock", "tb-src".into(), "wg0.sock".into()]
        {
            assert!(!is_leftover(&kept), "{kept}");
        }
        // Above the highest id there is (PID_MAX_LIMIT, 2²²).
        for left in ["tb-4194305-3", "tb-4194305", "tb400001n12.sock"] {
            assert!(is_leftover(left), "{left}");
        }
    }
}
