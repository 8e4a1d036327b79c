//! The table for status, `meshctl peers` and metrics.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::id::TokenId;

use super::{Peer, Table};
use crate::gateway::{StreamId, Trouble};

/// One peer, for status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerReport {
    /// The stream in use.
    pub stream: Option<StreamId>,
    /// Its age.
    pub age: Option<Duration>,
    /// Time until it is called again: to replace the stream, or to have one.
    pub next_dial: Option<Duration>,
    /// What ended the last stream or call, as long as there is no stream.
    pub trouble: Option<Trouble>,
}

impl Table {
    pub(in crate::gateway) fn report(&self, now: Duration) -> BTreeMap<TokenId, PeerReport> {
        let report = |peer: &Peer| PeerReport {
            stream: peer.current.map(|current| current.stream),
            age: peer.current.map(|current| now.saturating_sub(current.since)),
            next_dial: peer.due.map(|due| due.saturating_sub(now)),
            trouble: peer.trouble.clone().filter(|_| peer.current.is_none()),
        };
        self.peers.iter().map(|(token, peer)| (*token, report(peer))).collect()
    }
}
