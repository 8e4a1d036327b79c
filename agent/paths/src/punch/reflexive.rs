//! Where others say that they see this node.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use mesh_core::id::TokenId;

/// Of what peers say, so many addresses are passed on ...
const FROM_PEERS: usize = 2;
/// ... and no more new ones than these in this time, however many peers say something new.
const NEWS_EVERY: Duration = Duration::from_secs(60);
/// So many peers have to name an address where a server has answered. (Where none has, a single peer may be all there is.)
const BESIDES_STUN: usize = 2;

/// What a STUN server and the peers say of this node's address. The server was chosen by the operator; any one peer may lie, to
/// have all the others try an address of its choice: those that most peers name go first, and few of them go at all, and seldom.
#[derive(Debug, Clone, Default)]
pub struct Reflexive {
    stun: Option<SocketAddr>,
    peers: BTreeMap<TokenId, SocketAddr>,
    /// What of the peers' words is passed on.
    passed_on: Vec<SocketAddr>,
    /// When the last new ones were, [`FROM_PEERS`] at most.
    news: VecDeque<Duration>,
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
    pub fn candidates(&mut self, now: Duration) -> Vec<SocketAddr> {
        let named = self.named();
        self.passed_on.retain(|address| named.contains(address));
        for &address in &named {
            if !self.passed_on.contains(&address) && self.news_at() <= now {
                self.passed_on.push(address);
                if self.news.len() == FROM_PEERS {
                    self.news.pop_front();
                }
                self.news.push_back(now);
            }
        }
        let passed_on = named.into_iter().filter(|address| self.passed_on.contains(address));
        self.stun.into_iter().chain(passed_on).collect()
    }

    /// When [`Self::candidates`] will give an address that it did not give yet, if there is one. It may have passed: then at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let waits = self.named().iter().any(|address| !self.passed_on.contains(address));
        waits.then(|| self.news_at())
    }

    /// What is worth passing on of the peers' words, best first.
    fn named(&self) -> Vec<SocketAddr> {
        let mut votes = BTreeMap::<SocketAddr, usize>::new();
        for &address in self.peers.values() {
            *votes.entry(address).or_default() += 1;
        }
        let needed = if self.stun.is_some() { BESIDES_STUN } else { 1 };
        let is_worth_it = |&(address, votes): &(SocketAddr, usize)| votes >= needed && Some(address) != self.stun;
        let mut named = votes.into_iter().filter(is_worth_it).collect::<Vec<_>>();
        named.sort_by_key(|&(_, votes)| Reverse(votes));
        named.into_iter().map(|(address, _)| address).take(FROM_PEERS).collect()
    }

    /// From when on another new address may be passed on.
    fn news_at(&self) -> Duration {
        let last = self.news.front().filter(|_| self.news.len() == FROM_PEERS);
        last.map_or(Duration::ZERO, |&at| at + NEWS_EVERY)
    }
}
