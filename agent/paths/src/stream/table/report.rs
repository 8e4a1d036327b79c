//! The table for status, `meshctl peers` and metrics.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::id::TokenId;

use super::{Peer, Table};
use crate::stream::{Domain, StreamError, StreamId};

/// One peer, for status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PeerReport {
    /// The stream in use.
    pub stream: Option<StreamId>,
    /// Its age.
    pub age: Option<Duration>,
    /// Time until it is dialed again: to replace the stream, or to have one.
    pub next_dial: Option<Duration>,
    /// What ended the last stream or dial, as long as there is no stream.
    pub error: Option<StreamError>,
    /// The gateway by which the two meet: the peer's where this side dials, this side's own where the peer does.
    pub domain: Option<Domain>,
    /// Why it cannot be reached, as the last dial to it found.
    pub gateway: Option<StreamError>,
}

impl Table {
    pub(crate) fn report(&self, now: Duration) -> BTreeMap<TokenId, PeerReport> {
        let report = |peer: &Peer| PeerReport {
            stream: peer.current.map(|current| current.stream),
            age: peer.current.map(|current| now.saturating_sub(current.since)),
            next_dial: peer.due.map(|due| due.saturating_sub(now)),
            error: peer.error.clone().filter(|_| peer.current.is_none()),
            domain: self.domain_of(peer).cloned(),
            gateway: self.domain_of(peer).and_then(|domain| self.gateways.away(domain)).cloned(),
        };
        self.peers.iter().map(|(token, peer)| (*token, report(peer))).collect()
    }
}
