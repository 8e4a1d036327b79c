//! One table, its time, and what the shell would hold.

use std::collections::BTreeSet;

use mesh_core::id::InstanceId;

use super::{dialing::*, *};

mod anything;
mod away;
mod crowd;
mod redialing;
mod replacing;

const SECOND: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(1000);

fn token(n: u32) -> TokenId {
    TokenId::new(n).unwrap()
}

fn place(n: u32) -> Option<Place> {
    let (instance, port) = (InstanceId([n as u8; 20]), 51822.try_into().unwrap());
    Some(Place { instance, port, domain: format!("gw{}.test", n % 2).parse().unwrap() })
}

fn unreachable() -> StreamError {
    StreamError::Unreachable(String::new())
}

/// A table, its time, and what the shell would hold.
struct Lab {
    table: Table,
    now: Duration,
    dialing: BTreeMap<StreamId, TokenId>,
    open: BTreeSet<StreamId>,
    finished: BTreeSet<StreamId>,
    routes: BTreeMap<TokenId, StreamId>,
    /// Why there is no stream, as was said last.
    reasons: BTreeMap<TokenId, StreamError>,
    /// Actions since the last look.
    log: Vec<Action>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self {
            table: Table::new(AGE, seed),
            now: Duration::ZERO,
            dialing: BTreeMap::new(),
            open: BTreeSet::new(),
            finished: BTreeSet::new(),
            routes: BTreeMap::new(),
            reasons: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// Called by this side: 1 to `dialed`; the others, up to `all`, call.
    fn with_peers(seed: u64, dialed: u32, all: u32) -> Self {
        let mut lab = Self::new(seed);
        lab.table.set_peers((1..=all).map(|n| (token(n), place(n).filter(|_| n <= dialed))).collect(), lab.now);
        lab.act();
        lab
    }

    fn act(&mut self) {
        while let Some(action) = self.table.poll_action() {
            match &action {
                Action::Dial { peer, stream, .. } => {
                    assert!(!self.dialing.values().any(|other| other == peer), "one call at a time to each peer");
                    self.dialing.insert(*stream, *peer);
                }
                Action::Initiate { stream, .. } => assert!(self.open.contains(stream)),
                Action::Route { peer, stream: Some(stream), error } => {
                    assert!(self.open.contains(stream) && !self.finished.contains(stream) && error.is_none());
                    assert_ne!(self.routes.insert(*peer, *stream), Some(*stream), "nothing is said twice");
                }
                Action::Route { peer, stream: None, .. } => {
                    assert!(self.routes.remove(peer).is_some(), "nothing is said twice");
                }
                Action::Away { peer, error } => {
                    assert!(!self.routes.contains_key(peer), "it has a stream");
                    self.reasons.insert(*peer, error.clone());
                }
                Action::Ask(peer) => assert!(self.routes.contains_key(peer), "it has a stream"),
                Action::Finish(stream) => {
                    assert!(!self.routes.values().any(|route| route == stream), "packets do not go by it any more");
                    assert!(self.finished.insert(*stream));
                }
                Action::Close(stream, _) => {
                    let was_there = self.open.remove(stream) || self.dialing.remove(stream).is_some();
                    assert!(was_there, "{stream:?} is closed once");
                }
            }
            self.log.push(action);
        }
        self.check();
    }

    /// Nothing is forgotten, and nothing is held that is not there.
    fn check(&self) {
        let peers = self.table.peers.values();
        let mut held: Vec<StreamId> = peers
            .clone()
            .flat_map(|peer| {
                let waiting = peer.candidate.iter().chain(&peer.claims).chain(&peer.retired);
                let waiting = waiting.map(|waiting| waiting.stream);
                peer.current.map(|current| current.stream).into_iter().chain(waiting)
            })
            .chain(self.table.unproved.keys().copied())
            .collect();
        held.sort_unstable();
        assert_eq!(held, self.open.iter().copied().collect::<Vec<_>>());
        assert!(self.table.unproved.len() <= UNPROVED);
        assert!(self.table.peers.values().all(|peer| peer.claims.len() <= CLAIMS && peer.retired.len() <= RETIRED));
        let routes: BTreeMap<TokenId, StreamId> =
            self.table.peers.iter().filter_map(|(token, peer)| Some((*token, peer.current?.stream))).collect();
        assert_eq!(routes, self.routes);
    }

    /// On to the time at which something is due, `limit` at most.
    fn wait(&mut self, limit: Duration) {
        let until = self.now + limit;
        while let Some(at) = self.table.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.table.handle_timeout(self.now);
            self.act();
            let next = self.table.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "woken again for nothing: {next:?} at {:?}", self.now);
        }
        self.now = until;
    }

    fn opened(&mut self, stream: StreamId) {
        let peer = self.dialing.remove(&stream).unwrap();
        self.open.insert(stream);
        self.table.opened(peer, stream, self.now);
        self.act();
    }

    fn failed(&mut self, stream: StreamId, is_reached: bool) {
        let peer = self.dialing.remove(&stream).unwrap();
        let error = if is_reached { StreamError::Refused } else { unreachable() };
        self.table.dial_failed(peer, stream, error, is_reached, self.now);
        self.act();
    }

    fn accepted(&mut self) -> StreamId {
        let stream = self.table.accepted();
        self.open.insert(stream);
        self.act();
        stream
    }

    /// A packet of the peer's came by it.
    fn proved(&mut self, stream: StreamId, peer: TokenId) {
        self.table.proved(stream, peer, Proof::Data, self.now);
        self.act();
    }

    /// The peer answered on it.
    fn answered(&mut self, stream: StreamId, peer: TokenId) {
        self.table.proved(stream, peer, Proof::RoundTrip, self.now);
        self.act();
    }

    fn ended(&mut self, stream: StreamId) {
        if self.open.remove(&stream) {
            self.table.ended(stream, StreamError::Closed, self.now);
            self.act();
        }
    }

    /// The one call under way.
    fn dial(&mut self, limit: Duration) -> StreamId {
        let until = self.now + limit;
        while self.dialing.is_empty() && self.now < until {
            self.wait(Duration::from_millis(1));
        }
        assert_eq!(self.dialing.len(), 1);
        *self.dialing.first_key_value().unwrap().0
    }

    /// A stream that is in use, and the one that is to take its place: open, and not proved.
    fn redialed(&mut self, peer: TokenId) -> (StreamId, StreamId) {
        let old = self.connect(peer);
        self.wait(5 * SECOND);
        self.table.redial(peer, self.now);
        let new = self.dial(SECOND);
        self.opened(new);
        self.log();
        (old, new)
    }

    /// A call answered and proved.
    fn connect(&mut self, peer: TokenId) -> StreamId {
        let stream = self.dial(20 * SECOND);
        self.opened(stream);
        self.proved(stream, peer);
        stream
    }

    fn log(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }
}
