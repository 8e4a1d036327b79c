//! The table for status, `meshctl peers` and metrics.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::id::TokenId;

use super::{Peer, Table};
use crate::gateway::{StreamId, Trouble};

/// One peer, for status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerReport {
    /// This side calls.
    pub dials: bool,
    /// The stream in use.
    pub stream: Option<StreamId>,
    /// Its age.
    pub age: Option<Duration>,
    /// The peer proved itself on it.
    pub is_proved: bool,
    /// Time until it is called again: to replace the stream, or to have one.
    pub next_dial: Option<Duration>,
    /// Calls that failed since one was good.
    pub failures: u32,
    /// What ended the last stream or call, as long as there is no stream.
    pub trouble: Option<Trouble>,
}

impl Table {
    pub(in crate::gateway) fn report(&self, now: Duration) -> BTreeMap<TokenId, PeerReport> {
        let report = |peer: &Peer| PeerReport {
            dials: peer.place.is_some(),
            stream: peer.current.map(|current| current.stream),
            age: peer.current.map(|current| now.saturating_sub(current.since)),
            is_proved: peer.current.is_some_and(|current| current.is_proved),
            next_dial: peer.due.map(|due| due.saturating_sub(now)),
            failures: peer.failures,
            trouble: peer.trouble.clone().filter(|_| peer.current.is_none()),
        };
        self.peers.iter().map(|(token, peer)| (*token, report(peer))).collect()
    }
}
