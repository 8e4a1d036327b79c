//! Two ends that lose, delay and overtake each other's messages.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::end::{End, Taken};
use super::*;
use crate::noise::{Message, classify};

fn ends() -> (End, End) {
    (End::new(1, 2, None), End::new(2, 1, None))
}

/// What `from` answers to what `of` asks.
fn answer(of: &mut End, from: &mut End) -> Vec<u8> {
    let Some(Taken::Initiation(answer)) = from.take(&of.initiate()) else { panic!("refused") };
    answer
}

/// An answer takes a second: three initiations went out before the first comes, and the peer seals in each session from
/// when it hears in it until it hears in the next.
#[test]
fn what_is_on_its_way_from_far_away_arrives() {
    let (mut here, mut there) = ends();
    let answers: Vec<Vec<u8>> = (0..3).map(|_| answer(&mut here, &mut there)).collect();
    let mut forth = Vec::new();
    for answer in &answers {
        assert_eq!(here.take(answer), Some(Taken::Established));
        forth.extend(here.seal(&[]));
    }
    let mut back = Vec::new();
    for message in &forth {
        assert_eq!(there.take(message), Some(Taken::Keepalive));
        back.extend(there.seal(&[]));
    }
    for message in &back {
        assert_eq!(here.take(message), Some(Taken::Keepalive));
    }
}

#[test]
fn however_many_handshakes_there_are_few_sessions_are_kept() {
    let (mut here, mut there) = ends();
    for _ in 0..30 {
        assert!(here.shake_hands(&mut there));
    }
    assert_eq!((here.sessions.held.len(), there.sessions.held.len()), (FORMER + 1, FORMER + 1));
    for _ in 0..30 {
        answer(&mut here, &mut there);
    }
    assert_eq!((here.sessions.pending.len(), there.sessions.held.len()), (MAX_PENDING, FORMER + 1 + UNCONFIRMED));
    assert!(here.is_joined(&mut there), "unused sessions push out none that is used");
    let answers: Vec<Vec<u8>> = (0..UNCONFIRMED).map(|_| answer(&mut here, &mut there)).collect();
    for answer in &answers {
        assert_eq!(here.take(answer), Some(Taken::Established), "the last initiations can be answered");
        assert!(here.is_joined(&mut there), "and the last answers used");
    }
}

/// The peer may know the session of the last answer only, so that an answer that was overtaken is of no use.
#[test]
fn no_answer_takes_the_place_of_a_later_one() {
    let (mut here, mut there) = ends();
    let answers: Vec<Vec<u8>> = (0..3).map(|_| answer(&mut here, &mut there)).collect();
    let taken = [1, 0, 2, 1].map(|number: usize| here.take(&answers[number]));
    assert_eq!(taken, [Some(Taken::Established), None, Some(Taken::Established), None]);
    assert!(here.is_joined(&mut there));
}

#[test]
fn a_session_begins_when_it_is_confirmed_as_of_its_handshake() {
    let (mut here, mut there) = ends();
    let began = |sessions: &mut Sessions, answer: &[u8]| {
        sessions.confirm(u32::from_le_bytes(*answer[4..].first_chunk().unwrap())).and_then(|confirmed| confirmed.began)
    };
    let answers = [answer(&mut here, &mut there), answer(&mut here, &mut there)];
    let since = there.sessions.held[1].since;
    assert!(!there.has_session());
    assert_eq!(began(&mut there.sessions, &answers[1]), Some(Began { since, initiator: false }));
    assert!(there.has_session());
    assert_eq!(began(&mut there.sessions, &answers[0]), None, "a later one has begun");
    assert_eq!(began(&mut there.sessions, &answers[1]), None, "no news");
}

/// Of a handshake under way, anything may still be needed; of one that is over, what may be on its way.
#[test]
fn an_initiation_can_be_answered_for_some_time() {
    let (mut here, mut there) = ends();
    let answers = [answer(&mut here, &mut there), answer(&mut here, &mut there)];
    let end = here.sessions.pending[1].at + REKEY_TIMEOUT;
    here.sessions.advance(end, true);
    assert_eq!((here.sessions.pending.len(), here.sessions.next(true)), (2, None));
    assert_eq!(here.take(&answers[0]), Some(Taken::Established));
    assert_eq!(here.sessions.next(false), Some(end));
    here.sessions.advance(end, false);
    assert!(here.sessions.pending.is_empty());
    assert_eq!(here.take(&answers[1]), None);
}

/// A peer that goes about it as badly as it can.
#[test]
fn sessions_that_are_confirmed_backwards_are_few_as_well() {
    let (mut here, mut there) = ends();
    for _ in 0..30 {
        // Each goes elsewhere, so that each answer begins a session.
        let mut ask = |port| here.ask_at(Target::Endpoint(([192, 0, 2, 1], port).into()));
        let initiations: Vec<Vec<u8>> = (1..).map(&mut ask).take(UNCONFIRMED).collect();
        let answers: Vec<Vec<u8>> = initiations
            .iter()
            .map(|initiation| match there.take(initiation) {
                Some(Taken::Initiation(answer)) => answer,
                taken => panic!("{taken:?}"),
            })
            .collect();
        let seal = |answer: &Vec<u8>| here.take(answer).map(|_| here.seal(&[]).unwrap());
        let forth: Vec<Vec<u8>> = answers.iter().filter_map(seal).collect();
        for message in forth.iter().rev() {
            assert_eq!(there.take(message), Some(Taken::Keepalive));
        }
    }
    assert!(there.sessions.held.len() <= FORMER + 2 * UNCONFIRMED, "{}", there.sessions.held.len());
    assert!(here.is_joined(&mut there));
}

#[test]
fn no_session_is_used_beyond_its_end() {
    let (mut here, mut there) = ends();
    assert!(here.shake_hands(&mut there));
    let (since, index) = (here.sessions.held[0].since, here.sessions.held[0].session.receiver());
    let just_before = since + REJECT_AFTER - std::time::Duration::from_nanos(1);
    assert!(here.sessions.sealing(just_before).is_some() && here.sessions.by_receiver(index, just_before).is_some());
    let end = since + REJECT_AFTER;
    assert!(here.sessions.sealing(end).is_none() && here.sessions.by_receiver(index, end).is_none());
    assert_eq!(here.sessions.next(false), Some(end));
    here.sessions.advance(end, false);
    assert!(!here.sessions.in_use());
}

#[test]
fn no_two_of_a_peer_have_one_index() {
    let (mut here, mut there) = ends();
    assert!(here.shake_hands(&mut there));
    let kept = here.sessions.held[0].session.receiver();
    // As after as many sessions as have indices of their own.
    here.sessions.next = SESSIONS - 100;
    for _ in 0..512 {
        let message = here.initiate();
        let index = u32::from_le_bytes(*message[4..].first_chunk().unwrap());
        assert_eq!(here.sessions.indices.slot_of(index), 1, "the peer's own");
        assert_ne!(index, kept);
    }
    assert!(here.shake_hands(&mut there) && here.is_joined(&mut there));
}

/// Who sees the messages cannot tell that two sessions are of the same peer, how many there were, or whether one is the next.
#[test]
fn indices_of_sessions_and_peers_have_no_common_structure() {
    let indices = Arc::new(Indices::with_key(42));
    let mut peers: Vec<End> = (1..=40).map(|slot| End::with_indices(slot, 99, &indices)).collect();
    let mut seen: Vec<Vec<u32>> = Vec::new();
    for peer in &mut peers {
        let asked = (0..60).map(|_| u32::from_le_bytes(*peer.initiate()[4..].first_chunk().unwrap()));
        seen.push(asked.collect());
    }
    let differing = |pairs: Vec<(u32, u32)>| {
        let bits: u32 = pairs.iter().map(|(one, other)| (one ^ other).count_ones()).sum();
        let near = pairs.iter().filter(|(one, other)| one.abs_diff(*other) < 1 << 16).count();
        assert!(near < 3, "{near} of {} pairs are near each other", pairs.len());
        f64::from(bits) / pairs.len() as f64
    };
    let of_one_peer = differing(seen.iter().flat_map(|of| of.windows(2).map(|pair| (pair[0], pair[1]))).collect());
    let of_two =
        differing(seen.windows(2).flat_map(|two| two[0].iter().copied().zip(two[1].iter().copied())).collect());
    // Of numbers drawn at random, half of the 32 bits differ.
    assert!((15.5..16.5).contains(&of_one_peer) && (15.5..16.5).contains(&of_two), "{of_one_peer} {of_two}");
    for bit in 0..32 {
        let set = seen.iter().flatten().filter(|index| **index >> bit & 1 == 1).count();
        assert!((1050..1350).contains(&set), "bit {bit} is set in {set} of 2400");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whichever end initiates, at any time, and however long messages take: where none is lost and none overtakes another, no
    /// session is dropped while a message of it may still arrive.
    #[test]
    fn what_is_not_lost_on_its_way_is_taken(steps in prop::collection::vec((0..2_usize, 0..6_u8), 1..300)) {
        let (here, there) = ends();
        let (mut ends, mut paths, mut pending) = ([here, there], [VecDeque::new(), VecDeque::new()], [0; 2]);
        for (at, what) in steps {
            let to = 1 - at;
            match what {
                0 if pending[at] < MAX_PENDING => {
                    pending[at] += 1;
                    paths[to].push_back(ends[at].initiate());
                }
                0 | 1 => paths[to].extend(ends[at].seal(&[])),
                _ => {
                    let Some(message) = paths[at].pop_front() else { continue };
                    match ends[at].take(&message) {
                        Some(Taken::Initiation(answer)) => paths[to].push_back(answer),
                        Some(Taken::Established) => {
                            pending[at] -= 1;
                            paths[to].extend(ends[at].seal(&[]));
                        }
                        taken => prop_assert_eq!(taken, Some(Taken::Keepalive), "a message of type {}", message[0]),
                    }
                }
            }
            prop_assert!(ends[at].sessions.held.len() <= FORMER + 1 + 2 * UNCONFIRMED);
        }
    }
}

/// An initiation that went elsewhere is answered after a later one: that proves where it was, but the peer may have let go of the
/// session when it answered the later one.
#[test]
fn an_answer_from_elsewhere_that_was_overtaken_proves_a_place_and_no_more() {
    let (mut here, mut there) = ends();
    let elsewhere: SocketAddr = "192.0.2.7:7".parse().unwrap();
    let target = Target::Candidate(elsewhere);
    let (peer, now) = (there.identity.public(), Instant::now());
    let initiation = here.sessions.initiate(&here.identity, &peer, target, now, SystemTime::now()).unwrap();
    let Some(Taken::Initiation(overtaken)) = there.take(&initiation) else { panic!("refused") };
    let later = answer(&mut here, &mut there);
    let mut complete = |answer: &[u8]| {
        let receiver = u32::from_le_bytes(*answer[8..].first_chunk().unwrap());
        let completed = here.sessions.complete(&here.identity, None, receiver, answer, now)?;
        Some((completed.began, completed.target.is_candidate()))
    };
    let began = Some(Began { since: now, initiator: true });
    assert_eq!(complete(&later), Some((began, false)));
    assert_eq!(complete(&overtaken), Some((None, true)));
    assert_eq!(complete(&overtaken), None, "a replay");
    assert!(here.is_joined(&mut there));
}

/// However many places are tried, the initiation that went where the peer is can be answered.
#[test]
fn what_goes_elsewhere_takes_no_place() {
    let (mut here, mut there) = ends();
    let initiation = here.initiate();
    let peer = there.identity.public();
    for port in 1..100 {
        let target = Target::Candidate(([192, 0, 2, 1], port).into());
        here.sessions.initiate(&here.identity, &peer, target, Instant::now(), SystemTime::now()).unwrap();
    }
    assert_eq!(here.sessions.pending.len(), 1 + MAX_PENDING_CANDIDATES);
    let Some(Taken::Initiation(answer)) = there.take(&initiation) else { panic!("refused") };
    assert_eq!(here.take(&answer), Some(Taken::Established));
}

/// Who sees the initiation knows its index, and could have work done for any number of responses.
#[test]
fn of_responses_to_one_initiation_only_the_first_few_are_let_in() {
    let (mut here, mut there) = ends();
    let answer = answer(&mut here, &mut there);
    let Some(Message::Response { receiver }) = classify(&answer) else { panic!("no response") };
    assert!(!here.sessions.admits_response(receiver ^ 1) && !there.sessions.admits_response(receiver));
    assert!(here.sessions.admits_response(receiver));
    assert_eq!(here.take(&answer), Some(Taken::Established));
    assert!(!here.sessions.admits_response(receiver), "none is waited for");
    here.initiate();
    let index = here.sessions.pending[0].offer.index();
    assert_eq!((0..100).filter(|_| here.sessions.admits_response(index)).count(), usize::from(ADMITTED));
}
