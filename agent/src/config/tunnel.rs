//! Which tunnel a node has.

use clap::ValueEnum;

/// What the operator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TunnelChoice {
    /// A TUN device where this machine can have one, otherwise what `netstack` says. Where no tunnel is named at all, the second needs
    /// `--proxy`, `--forward` or `--expose`: without, nothing could use it.
    Auto,
    /// In this process, over a TUN device. Needs NET_ADMIN.
    Userspace,
    /// In this process, with TCP in this process too: needs no TUN device, no privileges and no root. Applications use it by `--proxy`,
    /// `--forward` and `--expose`.
    Netstack,
    /// The kernel's module. Needs NET_ADMIN.
    Kernel,
}

/// Which WireGuard does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataplane {
    /// In this process, over a TUN device.
    Userspace,
    /// In this process, over a TCP/IP stack in it: no packet of the mesh is ever in the kernel.
    Netstack,
    /// The kernel's module.
    Kernel,
}

impl Dataplane {
    /// The one to be had. `without_tun` says why this machine can have no TUN device; `is_used` whether anything would use a network in
    /// this process.
    pub(super) fn of(chosen: Option<TunnelChoice>, without_tun: Option<&str>, is_used: bool) -> Self {
        match chosen {
            Some(TunnelChoice::Userspace) => Self::Userspace,
            Some(TunnelChoice::Netstack) => Self::Netstack,
            Some(TunnelChoice::Kernel) => Self::Kernel,
            Some(TunnelChoice::Auto) if without_tun.is_some() => Self::Netstack,
            None if without_tun.is_some() && is_used => Self::Netstack,
            Some(TunnelChoice::Auto) | None => Self::Userspace,
        }
    }

    /// The name status shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Netstack => "netstack",
            Self::Kernel => "kernel",
        }
    }

    /// Whether it has an interface of the kernel, with addresses, routes and a guard.
    #[must_use]
    pub const fn has_interface(self) -> bool {
        match self {
            Self::Userspace | Self::Kernel => true,
            Self::Netstack => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_taken_and_auto_falls_back() {
        let why = Some("there is no /dev/net/tun");
        for (chosen, without_tun, is_used, expected) in [
            (None, None, true, Dataplane::Userspace),
            (None, why, true, Dataplane::Netstack),
            (None, why, false, Dataplane::Userspace),
            (Some(TunnelChoice::Auto), None, true, Dataplane::Userspace),
            (Some(TunnelChoice::Auto), why, false, Dataplane::Netstack),
            (Some(TunnelChoice::Userspace), why, true, Dataplane::Userspace),
            (Some(TunnelChoice::Netstack), None, true, Dataplane::Netstack),
            (Some(TunnelChoice::Kernel), why, true, Dataplane::Kernel),
        ] {
            assert_eq!(Dataplane::of(chosen, without_tun, is_used), expected, "{chosen:?} {without_tun:?} {is_used}");
        }
    }
}
