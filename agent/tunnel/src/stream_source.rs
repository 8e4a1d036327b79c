//! What a stream is counted as, by limits and cookies, which know addresses.

use std::net::{IpAddr, Ipv6Addr};

/// The address that a stream stands for.
pub(crate) struct StreamSource {
    own: IpAddr,
    /// Something has come by it that proves whose it is.
    pub(crate) is_validated: bool,
}

impl StreamSource {
    /// What all streams are counted as on which no peer has proved itself: a host that opens many of them has no more handshakes
    /// than by one. An address that no host sends from: multicast, and with a scope that there is not.
    const UNPROVED: u128 = 0xff00 << 112;

    /// Its own address is another one of these, which belongs to no stream of another `number`, so that streams are told apart as
    /// hosts are. Limits look at the first half of it.
    pub(crate) fn new(number: u64) -> Self {
        let number = u128::from(number & ((1 << 48) - 1)) << 64;
        Self { own: Ipv6Addr::from_bits(Self::UNPROVED | number).into(), is_validated: false }
    }

    pub(crate) fn address(&self) -> IpAddr {
        if self.is_validated { self.own } else { Ipv6Addr::from_bits(Self::UNPROVED).into() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::flood::Sources;

    #[test]
    fn unproved_streams_share_one_limit() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let mut is_allowed = |source: &StreamSource| sources.take(source.address(), now);
        let mut streams: Vec<StreamSource> = (1..=100).map(StreamSource::new).collect();
        let allowed = streams.iter().filter(|stream| is_allowed(stream)).count();
        assert_eq!(allowed, 5, "as by one stream");
        streams.iter_mut().for_each(|stream| stream.is_validated = true);
        assert!(streams.iter().all(&mut is_allowed), "each has its own");
    }
}
