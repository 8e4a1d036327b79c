//! Where this node may be reached, and what is done when that changes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use mesh_core::id::TokenId;

use super::{Driver, Inputs};
use crate::run::endpoint::source_address;

/// Addresses of nobody (RFC 5737 and 3849), to which the default route leads if there is one: nothing is ever sent there.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The addresses from which packets leave this machine by its default routes, IPv4 and IPv6: streams stand on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sources([Option<IpAddr>; 2]);

impl Sources {
    /// What the routing table says now.
    pub(super) fn find() -> Self {
        // Some port must be named: that of discard.
        Self(ANYWHERE.map(|anywhere| source_address((anywhere, 9).into())))
    }

    /// There is no default route, or none was ever seen.
    fn are_none(self) -> bool {
        self == Self::default()
    }

    /// Whether streams that were made before have to be made anew: packets leave from another address, or can leave again. A
    /// machine without network has not moved; what was found once stays until another takes its place.
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

impl Driver {
    pub(super) fn learn_addresses(&mut self, inputs: &mut Inputs) {
        self.candidates.set_local(inputs.local.borrow_and_update().clone());
        self.candidates.set_registered(inputs.registered.borrow_and_update().address());
        self.tell_candidates(self.now());
    }

    /// Streams are made anew where packets leave from another address than before. Where no default route tells, that is for
    /// [`Self::move_over`].
    pub(super) fn follow_sources(&mut self) {
        if self.sources.follow(Sources::find()) {
            self.transport.hurry();
        }
    }

    /// This machine has other addresses than before: by UDP it may be reached elsewhere.
    pub(super) fn move_over(&mut self) {
        let now = self.now();
        self.follow_sources();
        if self.sources.are_none() {
            self.transport.hurry();
        }
        self.stun.ask(now);
        self.retry(now);
    }

    /// Something changed on this machine: every path is asked at once.
    pub(super) fn retry(&mut self, now: Duration) {
        (self.retried, self.retry_due) = (Some(now), None);
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.paths.retry(now);
                peer.punch.retry(now);
                self.settle(token, now);
            }
        }
    }

    /// Tells all peers where this node may be reached, if that is news.
    pub(super) fn tell_candidates(&mut self, now: Duration) {
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
                self.settle(token, now);
            }
        }
    }

    pub(super) fn ask_stun(&mut self, now: Duration) {
        let Some(device) = self.slot.device() else { return self.stun.pause() };
        while self.stun.poll_timeout().is_some_and(|at| at <= now) {
            let mut transaction = [0; 12];
            if let Err(error) = getrandom::fill(&mut transaction) {
                tracing::warn!(%error, "no random numbers: no STUN server is asked");
                return self.stun.pause();
            }
            let Some((to, request)) = self.stun.poll_transmit(now, transaction) else { return };
            self.inbox.listen_to(self.stun.asked());
            // One that could not be sent is one that was lost.
            let _: bool = device.send_raw(to, &request);
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
