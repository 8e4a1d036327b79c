//! Where this node may be reached, and what is done when that changes.

use std::{net::SocketAddr, time::Duration};

use mesh_core::id::TokenId;
use tokio::{net::lookup_host, time::timeout};

use super::{Driver, Inputs};

/// How long a STUN server's name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn learn_addresses(&mut self, inputs: &mut Inputs) {
        self.candidates.set_local(inputs.local.borrow_and_update().clone());
        self.candidates.set_registered(inputs.registered.borrow_and_update().address());
        self.tell_candidates(self.now());
    }

    /// This machine has other addresses than before: nothing that was made from the old ones can be relied on.
    pub(super) fn move_over(&mut self) {
        let now = self.now();
        self.transport.hurry();
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
        self.candidates_due = None;
        let own = self.candidates.list();
        if own == self.own_candidates {
            return;
        }
        self.candidates_told = Some(now);
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
            // One that could not be sent is one that was lost.
            let _: bool = device.send_raw(to, &request);
        }
    }
}

/// Outside the tunnel: by this machine's own resolver. What it says when it does not know, or does not answer.
pub(super) async fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    match timeout(RESOLVE, lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", RESOLVE.as_secs())),
    }
}
