//! The flags of the device itself: the agent's, and those of `p2p-agent tunnel`.

use std::{num::NonZeroU8, str::FromStr};

use clap::{Args, builder::TypedValueParser as _, value_parser};
use mesh_tunnel::{DeviceOptions, Offloads};

/// How the device carries packets, as given; what is `None` or empty is left to the device.
#[derive(Debug, Clone, Args)]
pub struct DeviceFlags {
    /// Largest packet inside the tunnel, bytes; default: what fits the link to the outside, at most 1420.
    // Every IPv4 network carries 576; WireGuard adds up to 80 bytes to a packet inside an IPv6 one.
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u16).range(576..=65535 - 80))]
    pub mtu: Option<u16>,
    /// Threads for each direction of the userspace device, 1 to 64, each with an interface queue and UDP sockets of its own;
    /// default: 1.
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=64).try_map(NonZeroU8::try_from))]
    pub threads: Option<NonZeroU8>,
    /// What the userspace device must not leave to the kernel, because the kernel's or the network card's is broken: tun_tso,
    /// tun_uso, udp_gso or udp_gro; repeatable. What the kernel refuses is done without by itself.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub without_offload: Vec<OffloadName>,
}

impl DeviceFlags {
    /// What to make a device of that name with.
    #[must_use]
    pub fn options(&self, name: &str) -> DeviceOptions {
        let defaults = DeviceOptions::new(name);
        // Each is the name of one: the parser took no other.
        let less = |offloads: Offloads, name: &OffloadName| offloads.without(name.0).unwrap_or(offloads);
        DeviceOptions {
            mtu: self.mtu,
            threads: self.threads.unwrap_or(defaults.threads),
            offloads: self.without_offload.iter().fold(defaults.offloads, less),
            ..defaults
        }
    }

    /// The first flag that was given and means nothing to the kernel's device.
    pub(super) fn of_userspace_alone(&self) -> Option<&'static str> {
        let threads = self.threads.map(|_| "--threads");
        threads.or_else(|| self.without_offload.first().map(|_| "--without-offload"))
    }
}

/// The name of one of [`Offloads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadName(&'static str);

impl FromStr for OffloadName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Offloads::ALL.each().map(|(name, _)| name);
        let found = names().into_iter().find(|name| *name == text);
        found.map(Self).ok_or_else(|| format!("expected one of {}", names().join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        device: DeviceFlags,
    }

    fn parse(arguments: &[&str]) -> Result<DeviceOptions, String> {
        let cli = Cli::try_parse_from(["test"].iter().chain(arguments));
        cli.map(|cli| cli.device.options("mesh0")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_given_is_the_devices_own_choice() {
        let (made, own) = (parse(&[]).unwrap(), DeviceOptions::new("mesh0"));
        assert_eq!((made.name, made.mtu, made.uapi, made.threads), (own.name, own.mtu, own.uapi, own.threads));
        assert_eq!(made.offloads, own.offloads);
    }

    #[test]
    fn what_is_given_reaches_the_device() {
        let made = parse(&["--mtu", "1380", "--threads", "4", "--without-offload", "udp_gso,tun_uso"]).unwrap();
        assert_eq!((made.mtu, made.threads.get()), (Some(1380), 4));
        assert_eq!(made.offloads, Offloads { udp_gso: false, tun_uso: false, ..Offloads::ALL });
        let all = Offloads::ALL.each().map(|(name, _)| format!("--without-offload={name}"));
        let made = parse(&all.each_ref().map(String::as_str)).unwrap();
        assert_eq!(made.offloads, Offloads::NONE);
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        for (flag, good, bad, range) in [
            ("--mtu", ["576", "65455"], ["575", "65456"], "576..=65455"),
            ("--threads", ["1", "64"], ["0", "65"], "1..=64"),
        ] {
            for value in good {
                parse(&[flag, value]).unwrap();
            }
            for value in bad {
                let error = parse(&[flag, value]).unwrap_err();
                assert!(error.contains(flag) && error.contains(range), "{error}");
            }
        }
    }

    #[test]
    fn an_unknown_offload_is_refused_with_the_names() {
        for unknown in ["lro", "", "udp-gso"] {
            let error = parse(&["--without-offload", unknown]).unwrap_err();
            // What is set by a variable or the file shows the first line alone.
            let line = error.lines().next().unwrap();
            assert!(Offloads::ALL.each().iter().all(|(name, _)| line.contains(name)), "{error}");
        }
    }
}
