//! One table against whatever happens.

use std::collections::BTreeSet;

use mesh_core::id::InstanceId;
use proptest::prelude::*;

use super::{calls::*, *};

const SECOND: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(1000);

fn token(n: u32) -> TokenId {
    TokenId::new(n).unwrap()
}

fn place(n: u32) -> Option<Place> {
    let (instance, port) = (InstanceId([n as u8; 20]), 51822.try_into().unwrap());
    Some(Place { instance, port, domain: format!("gw{}.test", n % 2).parse().unwrap() })
}

fn unreachable() -> Trouble {
    Trouble::Unreachable(String::new())
}

/// A table, its time, and what the shell would hold.
struct Lab {
    table: Table,
    now: Duration,
    dialing: BTreeMap<StreamId, TokenId>,
    open: BTreeSet<StreamId>,
    finished: BTreeSet<StreamId>,
    routes: BTreeMap<TokenId, StreamId>,
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
                Action::Greet { stream, .. } => assert!(self.open.contains(stream)),
                Action::Route { peer, stream: Some(stream), trouble } => {
                    assert!(self.open.contains(stream) && !self.finished.contains(stream) && trouble.is_none());
                    assert_ne!(self.routes.insert(*peer, *stream), Some(*stream), "nothing is said twice");
                }
                Action::Route { peer, stream: None, .. } => {
                    assert!(self.routes.remove(peer).is_some(), "nothing is said twice");
                }
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
        let trouble = if is_reached { Trouble::Refused } else { unreachable() };
        self.table.dial_failed(peer, stream, trouble, is_reached, self.now);
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
            self.table.ended(stream, Trouble::Closed, self.now);
            self.act();
        }
    }

    /// The one call under way.
    fn call(&mut self, limit: Duration) -> StreamId {
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
        let new = self.call(SECOND);
        self.opened(new);
        self.log();
        (old, new)
    }

    /// A call answered and proved.
    fn connect(&mut self, peer: TokenId) -> StreamId {
        let stream = self.call(20 * SECOND);
        self.opened(stream);
        self.proved(stream, peer);
        stream
    }

    fn log(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }
}

#[test]
fn exactly_one_side_calls_if_anyone_can() {
    for (a, b) in [(1, 2), (2, 1), (7, 254)].map(|(a, b)| (token(a), token(b))) {
        for (a_reached, b_reached) in [(true, true), (true, false), (false, true)] {
            assert!(dials(a, a_reached, b, b_reached) != dials(b, b_reached, a, a_reached));
        }
        assert!(!dials(a, false, b, false) && !dials(b, false, a, false));
    }
    assert!(dials(token(1), true, token(2), true), "the lower one");
}

#[test]
fn a_new_stream_takes_over_when_the_peer_is_proved_on_it_and_not_before() {
    let (peer, mut lab) = (token(1), Lab::with_peers(1, 1, 1));
    let old = lab.connect(peer);
    lab.wait(AGE * 3 / 4 - SECOND);
    assert!(lab.dialing.is_empty(), "too early");
    lab.log();
    let new = lab.call(AGE);
    assert!(lab.now <= AGE + SECOND, "too late");
    lab.opened(new);
    let place = place(1).unwrap();
    assert_eq!(lab.log(), [Action::Dial { peer, stream: new, place }, Action::Greet { peer, stream: new }]);
    lab.proved(new, peer);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), trouble: None }]);
    // The other side goes over meanwhile.
    lab.wait(HANDOVER);
    assert_eq!(lab.log(), [Action::Finish(old)]);
    lab.wait(DRAIN);
    assert_eq!(lab.log(), [Action::Close(old, Trouble::Replaced)]);
}

#[test]
fn a_new_stream_that_is_not_proved_changes_nothing() {
    let (peer, mut lab) = (token(1), Lab::with_peers(2, 1, 1));
    let (old, new) = lab.redialed(peer);
    lab.wait(OVERLAP);
    assert_eq!(lab.log()[0], Action::Close(new, Trouble::Unproved));
    assert_eq!(lab.routes[&peer], old);
    // It is tried again, and the old one's end makes no difference to that.
    lab.ended(old);
    assert_eq!(lab.log().last(), Some(&Action::Route { peer, stream: None, trouble: Some(Trouble::Closed) }));
    lab.connect(peer);
}

#[test]
fn an_old_stream_that_breaks_first_leaves_the_new_one() {
    let (peer, mut lab) = (token(1), Lab::with_peers(3, 1, 1));
    let (old, new) = lab.redialed(peer);
    lab.ended(old);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), trouble: None }]);
    lab.proved(new, peer);
    assert!(lab.table.peers[&peer].current.unwrap().is_proved);
    assert!(lab.log().is_empty());
}

#[test]
fn a_new_stream_that_breaks_at_once_leaves_the_old_one_and_another_is_called() {
    let (peer, mut lab) = (token(1), Lab::with_peers(10, 1, 1));
    let (old, new) = lab.redialed(peer);
    lab.proved(new, peer);
    lab.log();
    lab.ended(new);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(old), trouble: None }]);
    let again = lab.call(LONGEST_WAIT);
    lab.opened(again);
    lab.answered(again, peer);
    assert_eq!(lab.routes[&peer], again);
    // Once its half is over it is none any more.
    lab.wait(HANDOVER);
    lab.log();
    lab.ended(again);
    assert_eq!(lab.log()[0], Action::Route { peer, stream: None, trouble: Some(Trouble::Closed) });
}

#[test]
fn the_side_that_is_called_goes_over_and_back() {
    let (peer, mut lab) = (token(1), Lab::with_peers(4, 0, 1));
    let first = lab.accepted();
    assert!(lab.log().is_empty());
    lab.proved(first, peer);
    assert_eq!(
        lab.log(),
        [Action::Route { peer, stream: Some(first), trouble: None }, Action::Greet { peer, stream: first }]
    );
    let second = lab.accepted();
    lab.proved(second, peer);
    assert_eq!(lab.log(), [Action::Greet { peer, stream: second }], "what came may have been caught elsewhere");
    lab.answered(second, peer);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(second), trouble: None }]);
    // The new one did not last, and the caller never came to like it.
    lab.ended(second);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(first), trouble: None }]);
    // Many new ones: the last few stay, and only the newest for ever.
    let many: Vec<StreamId> = (0..9).map(|_| lab.accepted()).collect();
    for stream in &many {
        lab.answered(*stream, peer);
    }
    assert_eq!(lab.open.iter().copied().collect::<Vec<_>>(), many[8 - RETIRED..]);
    lab.wait(LINGER);
    assert_eq!(lab.open, BTreeSet::from([many[8]]));
}

/// Somebody who catches packets of a peer, and brings each by a stream of his own before it came the right way.
#[test]
fn packets_that_were_caught_elsewhere_take_nobodys_place() {
    let (peer, mut lab) = (token(1), Lab::with_peers(11, 0, 1));
    let own = lab.accepted();
    lab.proved(own, peer);
    lab.log();
    let caught: Vec<StreamId> = (0..=CLAIMS).map(|_| lab.accepted()).collect();
    for stream in &caught {
        lab.proved(*stream, peer);
        assert!(lab.log().contains(&Action::Greet { peer, stream: *stream }), "it may be the peer");
    }
    assert_eq!(lab.routes[&peer], own);
    assert!(!lab.open.contains(&caught[0]), "few at a time");
    // The peer itself is not kept out by them.
    let new = lab.accepted();
    lab.proved(new, peer);
    lab.answered(new, peer);
    assert_eq!(lab.routes[&peer], new);
    lab.wait(OVERLAP);
    assert!(caught.iter().all(|stream| !lab.open.contains(stream)));
    assert_eq!((lab.routes[&peer], lab.open.clone()), (new, BTreeSet::from([own, new])));
}

/// The caller has gone over, and its end of the old stream is seen before its answer on the new one.
#[test]
fn a_claim_takes_over_when_the_stream_in_use_ends() {
    let (peer, mut lab) = (token(1), Lab::with_peers(12, 0, 1));
    let [old, new] = [(); 2].map(|()| lab.accepted());
    lab.proved(old, peer);
    lab.proved(new, peer);
    lab.log();
    lab.ended(old);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), trouble: None }]);
    lab.answered(new, peer);
    assert!(lab.log().is_empty() && lab.table.peers[&peer].current.unwrap().is_proved);
    lab.wait(OVERLAP);
    assert_eq!(lab.open, BTreeSet::from([new]));
}

#[test]
fn nobody_takes_anothers_place() {
    let (peer, mut lab) = (token(1), Lab::with_peers(5, 1, 2));
    let own = lab.connect(peer);
    // The peer calls too, for a moment of disagreement: one stream is enough.
    let theirs = lab.accepted();
    lab.proved(theirs, peer);
    // Nobody's, or one who is not a peer any more.
    let strangers = lab.accepted();
    lab.proved(strangers, token(99));
    assert_eq!(lab.open, BTreeSet::from([own]));
    // Called as one, proved by another.
    lab.table.redial(peer, lab.now + YOUNG);
    lab.now += YOUNG;
    let new = lab.call(SECOND);
    lab.opened(new);
    lab.proved(new, token(2));
    assert_eq!((lab.open.clone(), lab.routes[&peer]), (BTreeSet::from([own]), own));
}

#[test]
fn a_crowd_of_nobodies_pushes_out_its_oldest() {
    let mut lab = Lab::with_peers(6, 0, 1);
    let crowd: Vec<StreamId> = (0..UNPROVED + 10).map(|_| lab.accepted()).collect();
    assert_eq!(lab.open.iter().copied().collect::<Vec<_>>(), crowd[10..]);
    lab.proved(crowd[20], token(1));
    assert_eq!(lab.routes[&token(1)], crowd[20]);
}

#[test]
fn neither_silence_nor_hellos_keep_the_others_out() {
    // Whoever said hello stays while others come who say nothing.
    let mut lab = Lab::with_peers(13, 0, 1);
    let peers = lab.accepted();
    lab.table.greeted(peers);
    for _ in 0..10 * UNPROVED {
        lab.accepted();
    }
    assert!(lab.open.contains(&peers));
    lab.answered(peers, token(1));
    // A crowd that says hello cannot hold its places, and who comes among it has time to say hello.
    let crowd: Vec<StreamId> = (0..UNPROVED).map(|_| lab.accepted()).collect();
    crowd.iter().for_each(|stream| lab.table.greeted(*stream));
    let slow = lab.accepted();
    for _ in 0..UNPROVED / 4 {
        let other = lab.accepted();
        lab.table.greeted(other);
    }
    assert!(lab.open.contains(&slow), "no hello yet, and few of its kind");
    let left = crowd.iter().filter(|stream| lab.open.contains(stream)).count();
    assert!(left < UNPROVED);
    assert!(crowd[..UNPROVED - left].iter().any(|stream| lab.open.contains(stream)), "not the oldest alone");
}

#[test]
fn a_peer_that_is_gone_is_called_less_and_less_but_always_again() {
    let mut lab = Lab::with_peers(7, 1, 1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let call = lab.call(20 * SECOND);
        lab.failed(call, true);
        let before = lab.now;
        lab.call(20 * SECOND);
        waits.push(lab.now - before);
    }
    assert!(waits[0] <= FIRST_WAIT + Duration::from_millis(1), "{waits:?}");
    assert!(waits[6..].iter().all(|wait| (LONGEST_WAIT / 2..=LONGEST_WAIT + SECOND).contains(wait)), "{waits:?}");
    // A change of the network is a reason to think again.
    let call = lab.call(SECOND);
    lab.failed(call, true);
    lab.table.hurry(lab.now);
    lab.call(SPREAD + Duration::from_millis(1));
}

#[test]
fn a_stream_that_breaks_again_and_again_is_not_made_again_and_again() {
    let (peer, mut lab) = (token(1), Lab::with_peers(8, 1, 1));
    for _ in 0..10 {
        let stream = lab.connect(peer);
        lab.ended(stream);
    }
    let before = lab.now;
    let stream = lab.connect(peer);
    assert!(lab.now - before >= LONGEST_WAIT / 2);
    lab.wait(LASTED);
    lab.ended(stream);
    lab.call(SPREAD + Duration::from_millis(1));
}

#[test]
fn a_gateway_that_is_away_gets_one_call_at_a_time_and_a_spread_out_crowd_when_it_is_back() {
    let mut lab = Lab::with_peers(9, 250, 250);
    lab.wait(SECOND);
    // Both gateways.
    assert_eq!(lab.dialing.len(), 32, "16 at once for each");
    let mut calls = 0;
    while lab.now < 60 * SECOND {
        for stream in lab.dialing.keys().copied().collect::<Vec<_>>() {
            lab.failed(stream, false);
            calls += 1;
        }
        lab.wait(Duration::from_millis(20));
        assert!(lab.now < 2 * SECOND || lab.dialing.len() <= 2, "{}", lab.dialing.len());
    }
    assert!((100..300).contains(&calls), "{calls} calls in a minute to two gateways");
    while lab.dialing.len() < 2 {
        lab.wait(Duration::from_millis(10));
    }
    let (back, begun) = (*lab.dialing.first_key_value().unwrap().0, lab.now);
    lab.opened(back);
    assert!(lab.dialing.len() <= 2, "not all in the same moment");
    while lab.routes.len() < 125 {
        lab.wait(Duration::from_millis(5));
        let of_gateway = |lab: &Lab, stream: &StreamId| {
            lab.dialing[stream].get() % 2 == lab.routes.first_key_value().unwrap().0.get() % 2
        };
        let answered: Vec<StreamId> = lab.dialing.keys().copied().filter(|stream| of_gateway(&lab, stream)).collect();
        assert!(answered.len() <= 16);
        for stream in answered {
            lab.opened(stream);
        }
    }
    assert!(lab.now - begun <= SECOND, "{:?}", lab.now - begun);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Answer(usize, u8),
    Accept,
    Prove(usize, u32, bool),
    Greet(usize),
    End(usize),
    Peers(u8, u8),
    Hurry,
    Redial(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..400_000).prop_map(Step::Wait),
        4 => (0u64..2000).prop_map(Step::Wait),
        8 => (any::<usize>(), 0u8..6).prop_map(|(which, how)| Step::Answer(which, how)),
        4 => Just(Step::Accept),
        8 => (any::<usize>(), 1u32..8, any::<bool>()).prop_map(|(which, who, how)| Step::Prove(which, who, how)),
        2 => any::<usize>().prop_map(Step::Greet),
        4 => any::<usize>().prop_map(Step::End),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(who, called)| Step::Peers(who, called)),
        1 => Just(Step::Hurry),
        2 => (1u32..8).prop_map(Step::Redial),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: `Lab` finds what is lost, leaked, said twice or asked for too often. In the end,
    /// when all goes well, every peer that is called is reached.
    #[test]
    fn no_stream_is_lost_or_leaked(seed: u64, steps in prop::collection::vec(step(), 0..200)) {
        let mut lab = Lab::with_peers(seed, 3, 6);
        let mut proved = BTreeMap::new();
        let pick = |set: Vec<StreamId>, which: usize| (!set.is_empty()).then(|| set[which % set.len()]);
        for step in steps {
            match step {
                Step::Wait(millis) => lab.wait(Duration::from_millis(millis)),
                Step::Answer(which, how) => {
                    if let Some(stream) = pick(lab.dialing.keys().copied().collect(), which) {
                        match how {
                            0 => lab.failed(stream, false),
                            1 => lab.failed(stream, true),
                            _ => lab.opened(stream),
                        }
                    }
                }
                Step::Accept => drop(lab.accepted()),
                Step::Prove(which, who, answers) => {
                    // As the shell: once for each stream and kind of proof, always the same peer, and not for one that is closed.
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        match proved.get(&stream).copied() {
                            None if answers => lab.answered(stream, token(who)),
                            None => lab.proved(stream, token(who)),
                            Some((who, false)) => lab.answered(stream, token(who)),
                            Some((_, true)) => continue,
                        }
                        let is_second = proved.contains_key(&stream);
                        proved.entry(stream).or_insert((who, false)).1 |= answers || is_second;
                    }
                }
                Step::Greet(which) => {
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        lab.table.greeted(stream);
                    }
                }
                Step::End(which) => {
                    if let Some(stream) = pick(lab.open.iter().copied().collect(), which) {
                        lab.ended(stream);
                    }
                }
                Step::Peers(who, called) => {
                    let peers = (1..8).filter(|n| who & (1 << n) != 0);
                    let peers = peers.map(|n| (token(n), place(n).filter(|_| called & (1 << n) != 0))).collect();
                    lab.table.set_peers(peers, lab.now);
                    lab.act();
                }
                Step::Hurry => {
                    lab.table.hurry(lab.now);
                    lab.act();
                }
                Step::Redial(who) => {
                    lab.table.redial(token(who), lab.now);
                    lab.act();
                }
            }
        }
        let until = lab.now + 40 * SECOND;
        while lab.now < until {
            for (stream, peer) in lab.dialing.clone() {
                // Another's proof may have ended it.
                if !lab.dialing.contains_key(&stream) {
                    continue;
                }
                lab.opened(stream);
                if lab.open.contains(&stream) {
                    lab.proved(stream, peer);
                }
            }
            lab.wait(SECOND / 10);
        }
        for (peer, how) in lab.table.report(lab.now) {
            prop_assert!(lab.table.peers[&peer].place.is_none() || how.stream.is_some(), "{peer}: {how:?}");
        }
    }
}
