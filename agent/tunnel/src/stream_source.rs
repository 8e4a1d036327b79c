//! What a stream is where handshakes are limited ([`Source`]): limits and cookies know addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::flood::Source;
use crate::path::StreamOrigin;

/// The address that a stream stands for, and whether a stranger may be at its other end.
pub(crate) struct StreamSource {
    address: SocketAddr,
    is_known: bool,
}

impl StreamSource {
    /// An address that no host sends from: multicast, and with a scope that there is not.
    const NO_HOST: u128 = 0xff00 << 112;

    /// Another one of these belongs to each `number`, so that streams are told apart as hosts are, and a cookie that was given on one is
    /// worth nothing on another. Limits look at the first half of it.
    pub(crate) fn new(number: u64, origin: StreamOrigin) -> Self {
        let number = u128::from(number & ((1 << 48) - 1)) << 64;
        let address = IpAddr::from(Ipv6Addr::from_bits(Self::NO_HOST | number));
        Self { address: (address, 0).into(), is_known: origin == StreamOrigin::Dialed }
    }

    /// Something has come by it that proves whose it is.
    pub(crate) const fn prove(&mut self) {
        self.is_known = true;
    }

    pub(crate) const fn get(&self) -> Source {
        if self.is_known { Source::Host(self.address) } else { Source::Stranger(self.address) }
    }
}
