//! Where this node may be reached by UDP, best first: as others see it, as it is registered, and its own addresses.

use std::{net::SocketAddr, time::Duration};

use mesh_core::id::TokenId;

use crate::punch::Reflexive;

/// What is known of it, by source.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    reflexive: Reflexive,
    /// What all STUN servers say, the first one's word first.
    by_stun: Vec<SocketAddr>,
    registered: Option<SocketAddr>,
    local: Vec<SocketAddr>,
}

impl Candidates {
    pub(super) fn set_by_stun(&mut self, seen: Vec<SocketAddr>) {
        self.reflexive.set_stun(seen.first().copied());
        self.by_stun = seen;
    }

    pub(super) const fn set_registered(&mut self, registered: Option<SocketAddr>) {
        self.registered = registered;
    }

    pub(super) fn set_local(&mut self, local: Vec<SocketAddr>) {
        self.local = local;
    }

    /// That peer sees this node there.
    pub(super) fn set_by_peer(&mut self, peer: TokenId, seen: SocketAddr) {
        self.reflexive.set_peer(peer, canonical(seen));
    }

    /// This is no peer any more.
    pub(super) fn remove_peer(&mut self, peer: TokenId) {
        self.reflexive.remove_peer(peer);
    }

    /// Everything, each once; of what peers say, what may be passed on by now.
    pub(super) fn list(&mut self, now: Duration) -> Vec<SocketAddr> {
        let seen = self.reflexive.candidates(now);
        let all = seen.iter().chain(&self.by_stun).chain(&self.registered).chain(&self.local);
        let mut list = Vec::new();
        for candidate in all.copied().map(canonical) {
            if !list.contains(&candidate) {
                list.push(candidate);
            }
        }
        list
    }

    /// As [`Reflexive::poll_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.reflexive.poll_timeout()
    }
}

/// An IPv4 address as such, also where it came as an IPv4-mapped IPv6 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, n], 51821))
    }

    #[test]
    fn each_is_named_once_and_the_best_first() {
        let peers = [7, 8].map(|number| TokenId::new(number).unwrap());
        let mut candidates = Candidates::default();
        candidates.set_local(vec![at(9), at(1)]);
        candidates.set_registered(Some(at(5)));
        candidates.set_by_stun(vec![at(1), "[::ffff:203.0.113.5]:51821".parse().unwrap()]);
        peers.into_iter().for_each(|peer| candidates.set_by_peer(peer, at(2)));
        assert_eq!(candidates.list(Duration::ZERO), [at(1), at(2), at(5), at(9)]);
        assert_eq!(candidates.poll_timeout(), None);
        candidates.remove_peer(peers[0]);
        assert_eq!(candidates.list(Duration::ZERO), [at(1), at(5), at(9)], "one peer alone says it");
    }
}
