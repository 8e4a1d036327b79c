//! Where a peer is, and which address of this machine it is spoken to from.

use std::net::{IpAddr, SocketAddr};

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The local address its datagrams came to, which ours leave from.
    pub(crate) source: Option<LocalAddress>,
}

/// A local address that datagrams of a peer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    pub(crate) ip: IpAddr,
    /// The interface for link-local addresses, which mean nothing without it; else 0, so that routes may change.
    pub(crate) interface: u32,
}
