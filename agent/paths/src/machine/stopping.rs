//! The end of this node: its peers are told, before there is no session left to tell them by.

use std::time::Duration;

use mesh_core::id::TokenId;

use super::{Action, Paths};

/// When peers are told, since this node began to stop: some datagrams are lost, seldom all of these.
const TELL_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(40), Duration::from_millis(120)];

/// Peers are being told.
#[derive(Debug)]
pub(super) struct Stopping {
    since: Duration,
    /// How often they were.
    told: usize,
}

impl Stopping {
    /// When they are told again.
    pub(super) fn due(&self) -> Option<Duration> {
        TELL_AFTER.get(self.told).map(|after| self.since + *after)
    }
}

impl Paths {
    /// This node is about to stop. From now on nothing is sent to peers but that.
    pub(super) fn begin_stopping(&mut self, now: Duration) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { since: now, told: 0 });
        }
    }

    /// Tells peers, if that is due; the last time, says that they are told.
    pub(super) fn advance_stopping(&mut self, now: Duration) {
        let is_due = self.stopping.as_ref().and_then(Stopping::due).is_some_and(|at| at <= now);
        let Some(stopping) = self.stopping.as_mut().filter(|_| is_due) else { return };
        stopping.told += 1;
        // Without peers there is nothing to say again.
        let is_last = stopping.due().is_none() || self.peers.is_empty();
        if is_last {
            stopping.told = TELL_AFTER.len();
        }
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.tell_stopping(peer, now));
        if is_last {
            self.actions.push_back(Action::PeersTold);
        }
    }

    /// Tells one peer once that this node is gone, for it.
    pub(super) fn tell_stopping(&mut self, peer: TokenId, now: Duration) {
        let own = self.own();
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.send_stop(own, now, &mut self.actions);
        }
    }
}
