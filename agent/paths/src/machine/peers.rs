//! The peers that the agent names: to whom paths are kept, and who is dialed.

use std::time::Duration;

use mesh_core::{agent::PathPeers, ascending::Ascending, id::TokenId, network::MeshNetwork};

use super::{Action, Paths, peer::Peer, report};
use crate::{
    path::Selector,
    punch::Punch,
    stream::{Place, table::dials},
};

impl Paths {
    /// The agent has other peers now, or they are elsewhere.
    pub(super) fn set_peers(&mut self, wanted: &PathPeers, network: MeshNetwork, now: Duration) {
        self.own_place = wanted.own_place.as_ref().and_then(report::place);
        (self.own_token, self.own_address) = (Some(wanted.own), wanted.own_address);
        self.remove_unwanted(wanted, now);
        for (token, wanted) in &wanted.peers {
            let place = wanted.place.as_ref().and_then(report::place);
            if let Some(peer) = self.peers.get_mut(token) {
                peer.place = place;
                continue;
            }
            let selector = Selector::new(self.mtu, self.rng.next_u64(), now);
            let punch = Punch::new(network, self.rng.next_u64(), now);
            let mut peer = Peer::new(wanted.public_key, wanted.address, place, selector, punch, now);
            peer.punch.set_own(&self.own_candidates);
            peer.set_direct(self.unnamed.remove(&wanted.public_key), now);
            // The stream to a node that registered anew, with another key, is still there.
            if self.table.current(*token).is_some() {
                peer.set_stream(true, None, now);
            }
            self.tokens.insert(wanted.public_key, *token);
            self.peers.insert(*token, peer);
            self.attach_stream(*token);
            self.step(*token, now);
        }
        let (own_place, dialed) = (self.own_place.clone(), self.dialed(wanted.own));
        self.table_mut().set_own(wanted.own, own_place);
        self.table_mut().set_peers(dialed, now);
        self.want_report(now);
    }

    fn remove_unwanted(&mut self, wanted: &PathPeers, now: Duration) {
        if wanted.peers.is_empty() && self.stopping.is_none() {
            // This node is no member any more, or has lost its view of the contract. Its peers need not agree: they are told
            // once, as long as the device still has them, which nothing waits for.
            let peers: Vec<TokenId> = self.peers.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.tell_stopping(peer, now));
        }
        let mut listed = Ascending::new(wanted.peers.iter().map(|(token, peer)| (*token, peer)));
        let mut is_same = |token: &TokenId, peer: &Peer| {
            listed.find(*token).is_some_and(|it| (it.public_key, it.address) == (peer.key, peer.address))
        };
        let gone: Vec<_> = self.peers.extract_if(.., |token, peer| !is_same(token, peer)).collect();
        for (token, peer) in gone {
            self.tokens.remove(&peer.key);
            self.indirect.remove(&token);
            self.candidates.remove_peer(token);
            self.schedule.set(token, None);
            let has_other_key = wanted.peers.get(&token).is_none_or(|it| it.public_key != peer.key);
            if peer.has_stream && has_other_key {
                self.actions.push_back(Action::SetStream { peer: peer.key, stream: None });
            }
            // It may still be on the device, with another address or as another token.
            self.unnamed.extend(peer.direct.map(|endpoint| (peer.key, endpoint)));
        }
    }

    /// Every peer, ascending, and where this side dials it if it is this side that does.
    fn dialed(&self, own: TokenId) -> Vec<(TokenId, Option<Place>)> {
        let is_own_reached = self.own_place.is_some();
        let dialed = |(token, peer): (&TokenId, &Peer)| {
            let place = peer.place.clone().filter(|_| dials(own, is_own_reached, *token, true));
            (*token, place)
        };
        self.peers.iter().map(dialed).collect()
    }
}
