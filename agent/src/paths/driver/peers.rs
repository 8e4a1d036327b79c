//! The peers that the agent names: who is looked after, and who is called.

use std::collections::BTreeMap;

use mesh_core::{agent::PathPeers, id::TokenId, path::Paths, punch::Punch};

use super::{
    super::{Wanted, peer::Peer, report},
    Driver,
};
use crate::gateway::{Place, dials};

impl Driver {
    /// The agent has other peers now, or they are elsewhere.
    pub(super) fn set_wanted(&mut self, wanted: Wanted) {
        let now = self.now();
        let (peers, network) = match wanted {
            Some((peers, network)) => (*peers, network),
            None => return,
        };
        self.own_place = peers.own_place.as_ref().and_then(report::place);
        self.own_address = peers.own_address;
        self.remove_unwanted(&peers);
        let keys = peers.peers.iter().map(|(token, peer)| (*token, peer.public_key)).collect();
        self.slot.set_keys(keys);
        for (token, wanted) in &peers.peers {
            let place = wanted.place.as_ref().and_then(report::place);
            if let Some(peer) = self.peers.get_mut(token) {
                peer.place = place;
                continue;
            }
            let paths = Paths::new(self.mtu, self.random.number(), now);
            let punch = Punch::new(network, self.random.number(), now);
            let mut peer = Peer::new(wanted.public_key, wanted.address, place, paths, punch, now);
            peer.punch.set_own(&self.own_candidates);
            peer.set_direct(self.unnamed.remove(&wanted.public_key), now);
            if self.slot.has_stream(*token) {
                peer.set_stream(true, None, now);
            }
            self.tokens.insert(wanted.public_key, *token);
            self.peers.insert(*token, peer);
            self.slot.attach(*token);
            self.settle(*token, now);
        }
        self.transport.set_peers(self.calls(peers.own));
        self.want_to_tell(now);
    }

    fn remove_unwanted(&mut self, wanted: &PathPeers) {
        let is_same = |token: &TokenId, peer: &Peer| {
            wanted.peers.get(token).is_some_and(|it| (it.public_key, it.address) == (peer.key, peer.address))
        };
        let gone: Vec<_> = self.peers.extract_if(.., |token, peer| !is_same(token, peer)).collect();
        for (token, peer) in gone {
            self.tokens.remove(&peer.key);
            self.indirect.remove(&token);
            self.candidates.remove_peer(token);
            self.schedule.set(token, None);
            // It may still be on the device, with another address or as another token.
            self.unnamed.extend(peer.direct.map(|endpoint| (peer.key, endpoint)));
        }
    }

    /// Whom this side calls, and where.
    fn calls(&self, own: TokenId) -> BTreeMap<TokenId, Option<Place>> {
        let is_own_reached = self.own_place.is_some();
        let call = |(token, peer): (&TokenId, &Peer)| {
            let place = peer.place.clone().filter(|_| dials(own, is_own_reached, *token, true));
            (*token, place)
        };
        self.peers.iter().map(call).collect()
    }
}
