//! The interface's MTU where nobody gave one: what fits the links to the outside, and to every peer.

use std::net::SocketAddr;

use crate::config::DEFAULT_MTU;
use crate::device::Shared;
use crate::underlay::{self, LEAST_FOR_IPV6, Via};

/// What there is to look at.
#[derive(Debug)]
pub(crate) enum Fit {
    /// Peers are now to be reached there.
    Endpoints(Vec<SocketAddr>),
    /// Everything: peers went, or a link turned out to be too narrow.
    All,
}

/// The MTU that the device chose. The control thread alone has it.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// `None` where the owner gave one.
    chosen: Option<u16>,
    /// It is what a peer's link carries, and less than other links would.
    lowered: bool,
}

impl Mtu {
    /// `chosen` is the MTU that the interface was made with, where it was not given.
    pub(crate) const fn new(chosen: Option<u16>) -> Self {
        Self { chosen, lowered: false }
    }

    /// Changes the interface's MTU if another fits better, and nobody has changed it since. It asks the system, and may
    /// wait for the lock of all network configuration.
    pub(crate) fn fit(&mut self, shared: &Shared, look_at: &Fit) {
        let Some(chosen) = self.chosen else { return };
        let via = Via { fwmark: shared.table().fwmark, except: shared.tun.index() };
        let (fitting, lowered) = match look_at {
            // One change among ten thousand peers looks at one link.
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
            // Somebody else knows better, or the interface is gone.
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

/// What fits the links to all of them. Never so little that the interface would lose IPv6: one peer must not take that
/// from the others.
fn to_peers(endpoints: &[SocketAddr], via: Via) -> Option<u16> {
    let mtu = underlay::fitting_mtu(endpoints.iter().copied(), via)?;
    Some(mtu.max(LEAST_FOR_IPV6))
}
