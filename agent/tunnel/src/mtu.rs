//! The interface's MTU: what a thread knows of it, and where none was configured, the one that fits the links to the outside, and to
//! every peer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::DEFAULT_MTU;
use crate::device::Shared;
use crate::underlay::{self, LEAST_FOR_IPV6, Via};

/// How old what a thread knows may be.
const AGE: Duration = Duration::from_secs(1);

/// When a thread that carries packets last looked at the interface: at its MTU, and at where it is, because it may be moved to
/// another namespace or back at any time ([`crate::tun::Tun::index_outside`]).
#[derive(Debug, Default)]
pub(crate) struct Look(Option<Instant>);

impl Look {
    /// The interface's MTU, read again when that was long ago. To be called where nothing is held that another thread may wait for.
    pub(crate) fn mtu(&mut self, shared: &Shared) -> u16 {
        let now = Instant::now();
        if self.0.is_none_or(|read| now >= read + AGE) {
            self.0 = Some(now);
            // Where another program is busy with the interface, the MTU of a second ago will do: packets do not wait.
            if let Some(Err(error)) = shared.read_mtu_if_free() {
                tracing::debug!(%error, "could not read the MTU");
            }
        }
        shared.mtu()
    }
}

/// Which links are to be checked.
#[derive(Debug)]
pub(crate) enum Fit {
    /// Those to new endpoints of peers.
    Endpoints(Vec<SocketAddr>),
    /// All: peers were removed, or a link turned out to have a smaller MTU.
    All,
}

/// The MTU that the device chose. Only the control thread has it.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// `None` where the owner configured one.
    chosen: Option<u16>,
    /// Whether the link to a peer limits it, to less than the default routes would.
    lowered: bool,
}

impl Mtu {
    /// `chosen` is the MTU with which the interface was made; `None` where it was configured.
    pub(crate) const fn new(chosen: Option<u16>) -> Self {
        Self { chosen, lowered: false }
    }

    /// Changes the interface's MTU if another one fits better, unless another program has changed it. It makes system calls, and
    /// may wait for the kernel's lock for network configuration.
    pub(crate) fn fit(&mut self, shared: &Shared, look_at: &Fit) {
        let Some(chosen) = self.chosen else { return };
        // Where the interface was moved, this finds it again. It is not waited for: an update would wait as well.
        let _ = shared.read_mtu_if_free();
        let via = Via { fwmark: shared.table().fwmark, except: shared.inner.index_outside() };
        let (fitting, lowered) = match look_at {
            // One change among ten thousand peers checks one link.
            Fit::Endpoints(endpoints) if !self.lowered => {
                let to_peers = to_peers(endpoints, via).unwrap_or(chosen);
                (chosen.min(to_peers), to_peers < chosen)
            }
            Fit::Endpoints(_) | Fit::All => {
                let outside = underlay::outside_mtu(via).unwrap_or(DEFAULT_MTU);
                let to_peers = to_peers(&shared.endpoints(), via).unwrap_or(outside);
                (outside.min(to_peers), to_peers < outside)
            }
        };
        if fitting == chosen {
            return;
        }
        match shared.read_mtu() {
            Ok(now) if now == chosen => {}
            // An administrator has changed it, or the interface is gone.
            Ok(_) | Err(_) => return,
        }
        match shared.set_mtu(fitting) {
            Ok(()) => {
                tracing::info!(before = chosen, mtu = fitting, "the interface's MTU follows the links outside");
                *self = Self { chosen: Some(fitting), lowered };
            }
            Err(error) => tracing::warn!(mtu = fitting, %error, "could not change the interface's MTU"),
        }
    }
}

/// The MTU that fits the links to all of them. Never so small that the interface would lose IPv6: one peer must not take that from
/// the others.
fn to_peers(endpoints: &[SocketAddr], via: Via) -> Option<u16> {
    let mtu = underlay::fitting_mtu(endpoints.iter().copied(), via)?;
    Some(mtu.max(LEAST_FOR_IPV6))
}
