//! Whether this machine can carry a mesh at all: checked before anything is made, so that what is missing is reported at once.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    path::Path,
};

use crate::{
    config::{Config, Dataplane},
    device::tunnel::{KERNEL_MODULE, TunnelError},
};

/// CAP_NET_ADMIN's bit in the masks of `/proc/self/status` (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const TUN: &str = "/dev/net/tun";

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// No TUN device node.
    #[error(
        "`{TUN}` is not there (tun_missing): this machine offers no TUN devices\nhint: load the `tun` module, or pass the device into the container (`devices: [/dev/net/tun]`); where neither can be had, `--tunnel netstack` needs no TUN device"
    )]
    TunMissing,
    /// Not allowed to make interfaces.
    #[error(
        "the capability NET_ADMIN is missing (perm_net_admin): interfaces and routes cannot be made\nhint: run as root, or add it to the container (`cap_add: [NET_ADMIN]`); where neither can be had, `--tunnel netstack` needs no privileges"
    )]
    NetAdmin,
    /// The port is in use.
    #[error(
        "UDP port {port} is taken (udp_bind): {reason}\nhint: choose another `--listen-port`, or find its owner with `ss -lunp`"
    )]
    UdpBind {
        /// The port.
        port: u16,
        /// The system's words.
        reason: io::Error,
    },
    /// The interface's name is in use, or this kernel has no WireGuard.
    #[error("{}{}", .0, .0.hint().map_or_else(String::new, |hint| format!("\nhint: {hint}")))]
    Tunnel(TunnelError),
}

/// Checks whether this process may change the machine's network at all: the guard is put up before anything else is checked.
///
/// # Errors
/// It may not.
pub fn check_rights() -> Result<(), CannotStart> {
    let may = has_net_admin(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    if may { Ok(()) } else { Err(CannotStart::NetAdmin) }
}

/// Why this process can have no TUN device; `None` where it can.
#[must_use]
pub fn why_without_tun() -> Option<String> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(TUN) {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        return Some(if is_missing {
            format!("there is no {TUN}")
        } else {
            format!("{TUN} cannot be opened ({error})")
        });
    }
    check_rights().err().map(|_| "the capability NET_ADMIN is missing".to_owned())
}

/// Checks that the machine has what the configured device needs.
///
/// # Errors
/// The first thing that is missing.
pub fn check(config: &Config) -> Result<(), CannotStart> {
    match config.dataplane {
        Dataplane::Netstack => return config.listen_port.map_or(Ok(()), try_port),
        Dataplane::Userspace if !Path::new(TUN).exists() => return Err(CannotStart::TunMissing),
        Dataplane::Kernel if !Path::new(KERNEL_MODULE).exists() => {
            return Err(CannotStart::Tunnel(TunnelError::NoKernelModule));
        }
        Dataplane::Userspace | Dataplane::Kernel => {}
    }
    // The kernel's interface outlives a killed agent, and is adopted where it has our key.
    if is_there(&config.interface) && config.dataplane == Dataplane::Userspace {
        return Err(CannotStart::Tunnel(TunnelError::NameTaken(config.interface.clone())));
    }
    config.listen_port.map_or(Ok(()), |port| check_port(config, port))
}

/// Checks that the device can have this UDP port, which it has already where its interface is there.
///
/// # Errors
/// It is taken.
pub fn check_port(config: &Config, port: u16) -> Result<(), CannotStart> {
    if config.dataplane.has_interface() && is_there(&config.interface) { Ok(()) } else { try_port(port) }
}

fn is_there(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

fn try_port(port: u16) -> Result<(), CannotStart> {
    let taken = |reason| CannotStart::UdpBind { port, reason };
    drop(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(taken)?);
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        // A machine without IPv6.
        Err(error)
            if error.raw_os_error() == Some(libc::EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable =>
        {
            Ok(())
        }
        other => other.map(drop).map_err(taken),
    }
}

fn has_net_admin(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << CAP_NET_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_effective_mask() {
        assert!(has_net_admin("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000001000\n"));
        assert!(!has_net_admin("CapPrm:\t0000000000001000\nCapEff:\t0000000000000fff\n"));
        assert!(!has_net_admin(""));
    }

    #[test]
    fn a_machine_that_can_have_no_tunnel_is_told_of_the_one_that_needs_nothing() {
        for error in [CannotStart::NetAdmin, CannotStart::TunMissing] {
            let text = error.to_string();
            let (_, hint) = text.split_once("\nhint: ").unwrap();
            assert!(hint.contains("`--tunnel netstack`"), "{text}");
        }
    }

    #[test]
    fn what_the_device_would_say_comes_with_its_hint() {
        let error = CannotStart::Tunnel(TunnelError::NameTaken("mesh0".to_owned())).to_string();
        assert!(error.starts_with("interface `mesh0` exists already\nhint: choose another `--interface`"), "{error}");
        assert_eq!(CannotStart::Tunnel(TunnelError::NoDevice).to_string(), "there is no device");
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = try_port(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("udp_bind"), "{error}");
    }
}
