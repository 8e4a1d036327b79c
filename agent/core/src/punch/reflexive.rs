//! Where others say that they see this node.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::id::TokenId;

/// Of what peers say, so many addresses are passed on.
const FROM_PEERS: usize = 2;

/// What a STUN server and the peers say of this node's address. The server was chosen by the operator; any one peer may lie, to
/// have all the others try an address of its choice: those that most peers name go first, and few of them go at all.
#[derive(Debug, Clone, Default)]
pub struct Reflexive {
    stun: Option<SocketAddr>,
    peers: BTreeMap<TokenId, SocketAddr>,
}

impl Reflexive {
    /// The server's last answer.
    pub const fn set_stun(&mut self, address: Option<SocketAddr>) {
        self.stun = address;
    }

    /// What [`super::Punch::poll_seen_by_peer`] gave.
    pub fn set_peer(&mut self, peer: TokenId, address: SocketAddr) {
        self.peers.insert(peer, address);
    }

    /// This is no peer any more.
    pub fn remove_peer(&mut self, peer: TokenId) {
        self.peers.remove(&peer);
    }

    /// Best first, each once: the first of what [`super::Punch::set_own`] is given.
    #[must_use]
    pub fn candidates(&self) -> Vec<SocketAddr> {
        let mut votes = BTreeMap::<SocketAddr, usize>::new();
        for &address in self.peers.values() {
            *votes.entry(address).or_default() += 1;
        }
        let mut named = votes.into_iter().filter(|(address, _)| Some(*address) != self.stun).collect::<Vec<_>>();
        named.sort_by_key(|&(_, votes)| std::cmp::Reverse(votes));
        self.stun.into_iter().chain(named.into_iter().map(|(address, _)| address).take(FROM_PEERS)).collect()
    }
}
