//! Where this node may be reached, and what is done when that changes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use mesh_core::id::TokenId;

use super::{Action, Paths};

/// Every path is asked anew at a change of this host, but not more often than this, and this more for each peer ...
const RETRY_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY_PER_PEER: Duration = Duration::from_millis(10);
/// ... but sooner where packets leave from other addresses than before: peers do not reach this node until they hear of it.
const MOVE_EVERY: Duration = Duration::from_millis(100);
const MOVE_EVERY_PER_PEER: Duration = Duration::from_millis(1);

/// Addresses that belong to no host (RFC 5737 and 3849), to which the default route leads if there is one.
pub const DEFAULT_ROUTES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The addresses from which packets leave this host by its default routes, IPv4 and IPv6: streams stand on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources(pub [Option<IpAddr>; 2]);

impl Sources {
    /// There is no default route, or none was ever seen.
    fn are_none(self) -> bool {
        self == Self::default()
    }

    /// Whether streams that were made before have to be made anew: packets leave from another address, or can leave again. A
    /// host without network has not moved; what was found once stays until another takes its place.
    fn follow(&mut self, now: Self) -> bool {
        let is_first = self.are_none() && !now.are_none();
        let mut is_other = false;
        for (known, now) in self.0.iter_mut().zip(now.0) {
            is_other |= known.is_some() && now.is_some() && *known != now;
            *known = now.or(*known);
        }
        is_first || is_other
    }
}

impl Paths {
    pub(super) fn handle_host_change(&mut self, sources: Sources, now: Duration) {
        let has_moved = self.follow_sources(sources, now);
        self.want_retry(has_moved, now);
    }

    /// This host has other addresses than before: by UDP it may be reached elsewhere.
    pub(super) fn set_local(&mut self, addresses: Vec<SocketAddr>, sources: Sources, now: Duration) {
        self.candidates.set_local(addresses);
        self.offer_candidates(now);
        self.follow_sources(sources, now);
        if self.sources.are_none() {
            self.table_mut().retry(now);
        }
        self.stun.ask(now);
        self.want_retry(true, now);
    }

    pub(super) fn set_registered(&mut self, endpoint: Option<SocketAddr>, now: Duration) {
        self.candidates.set_registered(endpoint);
        self.offer_candidates(now);
    }

    /// Streams are made anew where packets leave from another address than before; whether they do. Where no default route tells,
    /// that is for [`Self::set_local`].
    fn follow_sources(&mut self, sources: Sources, now: Duration) -> bool {
        let has_moved = self.sources.follow(sources);
        if has_moved {
            self.table_mut().retry(now);
        }
        has_moved
    }

    /// Every path is to be asked as soon as it may be: sooner where this host `has_moved`, and by datagrams that leave from there.
    fn want_retry(&mut self, has_moved: bool, now: Duration) {
        if has_moved && self.has_device {
            self.actions.push_back(Action::ForgetSources);
        }
        let pause = match has_moved {
            true => self.for_each_peer(MOVE_EVERY_PER_PEER, MOVE_EVERY),
            false => self.for_each_peer(RETRY_EVERY_PER_PEER, RETRY_EVERY),
        };
        let at = self.retried.map_or(now, |retried| now.max(retried + pause));
        self.retry_due = Some(self.retry_due.map_or(at, |due| due.min(at)));
    }

    /// Something changed on this host: every path is asked at once.
    pub(super) fn retry(&mut self, now: Duration) {
        (self.retried, self.retry_due) = (Some(now), None);
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.selector.retry(now);
                peer.punch.retry(now);
                self.step(token, now);
            }
        }
    }

    /// Gives all peers the addresses where this node may be reached, if there are others than before.
    pub(super) fn offer_candidates(&mut self, now: Duration) {
        let own = self.candidates.list(now);
        self.candidates_due = self.candidates.poll_timeout();
        if own == self.own_candidates {
            return;
        }
        self.own_candidates = own;
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.punch.set_own(&self.own_candidates);
                self.step(token, now);
            }
        }
    }

    pub(super) fn ask_stun(&mut self, now: Duration) {
        self.stun.want(!self.indirect.is_empty(), now);
        let names = self.stun.begin(now).into_iter();
        self.actions.extend(names.map(|(server, name)| Action::Resolve { server, name }));
        if !self.has_device {
            return self.stun.pause();
        }
        while let Some((to, request)) = self.stun.poll_transmit(now) {
            self.actions.push_back(Action::ExpectStun(self.stun.asked()));
            self.actions.push_back(Action::SendStun { to, request });
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_made_anew_when_packets_leave_from_elsewhere_and_not_before() {
        let [a, b, six, other] = ["192.0.2.7", "192.0.2.8", "2001:db8::7", "2001:db8::8"];
        let sources = |v4: &str, v6: &str| Sources([v4, v6].map(|address| address.parse().ok()));
        let mut known = Sources::default();
        for (v4, v6, is_moved) in [
            ("", "", false),
            // The first default route: whatever was called before has failed.
            (a, "", true),
            (a, "", false),
            // Another family is no reason to leave the one there is.
            (a, six, false),
            // The network is gone for a while.
            ("", "", false),
            (a, six, false),
            (b, six, true),
            ("", six, false),
            (b, other, true),
            (a, "", true),
        ] {
            assert_eq!(known.follow(sources(v4, v6)), is_moved, "{v4} {v6}");
        }
        assert_eq!(known, sources(a, other));
    }
}
