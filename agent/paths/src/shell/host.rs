//! From which addresses packets leave this host.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::{DEFAULT_ROUTES, Sources};

/// What the routing table says of the default routes now.
pub(super) fn sources() -> Sources {
    // Some port must be named: that of discard.
    Sources(DEFAULT_ROUTES.map(|anywhere| source_address((anywhere, 9).into())))
}

/// The address from which packets to `remote` leave this host, if there is a route. Sends nothing: connecting a UDP socket only asks
/// the routing table.
#[must_use]
pub fn source_address(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
