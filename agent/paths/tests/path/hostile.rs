//! A peer that lies, repeats itself, or says too much.

use std::time::Duration;

use mesh_paths::path::{
    Hearing, KINDS, Message, MessageKind,
    PathKind::{Direct, Gateway},
    ProbeError, SMALL, Selector, Transmit,
};
use proptest::prelude::*;

use crate::peer::{Answers, Peer, START};

const NOTHING: [Option<Hearing>; 2] = [None, None];

fn reply(path: mesh_paths::path::PathKind, sequence: u64) -> Message {
    Message { kind: MessageKind::Reply, path, sequence, hearing: NOTHING }
}

fn request(sequence: u64) -> Message {
    Message { kind: MessageKind::Request, path: Direct, sequence, hearing: NOTHING }
}

#[test]
fn replies_that_answer_nothing_prove_nothing() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.run(2.0);
    let asked = *peer.sent.iter().rev().find(|sent| sent.by == Direct).unwrap();
    let before = peer.report(Direct);
    for sequence in [0, 1, asked.sequence + 1, u64::MAX] {
        assert_eq!(peer.say(Direct, &reply(Direct, sequence), SMALL), Err(ProbeError::Unasked(sequence)));
    }
    assert_eq!(peer.say(Gateway, &reply(Gateway, asked.sequence), SMALL), Err(ProbeError::Unasked(asked.sequence)));
    assert_eq!(peer.say(Gateway, &reply(Direct, asked.sequence), SMALL), Err(ProbeError::OtherPath));
    assert_eq!(peer.report(Direct), before);
    assert_eq!(peer.say(Direct, &reply(Direct, asked.sequence), SMALL), Ok(()));
    assert_eq!(
        peer.say(Direct, &reply(Direct, asked.sequence), SMALL),
        Err(ProbeError::Unasked(asked.sequence)),
        "again"
    );
}

#[test]
fn a_reply_that_comes_very_late_proves_nothing() {
    let mut peer = Peer::talking();
    peer.answers = [Answers::None; 2];
    peer.run(0.3);
    let asked = *peer.sent.last().unwrap();
    peer.talks = false;
    peer.run(6.0);
    assert_eq!(peer.say(asked.by, &reply(asked.by, asked.sequence), SMALL), Err(ProbeError::Unasked(asked.sequence)));
}

#[test]
fn replies_from_before_a_path_came_up_are_not_of_it() {
    let mut peer = Peer::talking();
    let asked = *peer.sent.iter().rev().find(|sent| sent.by == Direct).unwrap();
    peer.away(Direct);
    peer.up(Direct);
    assert_eq!(peer.say(Direct, &reply(Direct, asked.sequence), SMALL), Err(ProbeError::Unasked(asked.sequence)));
}

#[test]
fn requests_are_answered_by_the_path_they_came_by_and_never_at_length() {
    let mut peer = Peer::talking();
    for bytes in [SMALL, 1392, 9000] {
        peer.say(Direct, &request(77), bytes).unwrap();
        let Transmit { path, payload } = peer.paths.poll_transmit().unwrap();
        let answer = Message::parse(&payload).unwrap();
        assert_eq!((path, payload.len(), answer.kind, answer.sequence), (Direct, SMALL, MessageKind::Reply, 77));
        assert_eq!(
            answer.hearing[0].unwrap().age,
            Some(Duration::ZERO).filter(|_| bytes != SMALL).or(answer.hearing[0].unwrap().age)
        );
    }
    assert_eq!(peer.say(Gateway, &request(78), SMALL), Err(ProbeError::OtherPath));
    assert_eq!(peer.paths.poll_transmit(), None);
}

#[test]
fn a_flood_of_requests_gets_few_answers_and_no_memory() {
    let mut paths = Selector::new(1420, 1, START);
    KINDS.into_iter().for_each(|kind| paths.path_up(kind, START));
    while paths.poll_transmit().is_some() {}
    let flood = request(1).encode(SMALL);
    let answered = (0..100_000u32)
        .filter(|&n| paths.handle_probe(Direct, &flood, START + Duration::from_micros(100) * n).is_ok())
        .count();
    assert!((400..=445).contains(&answered), "{answered} answers in 10 s");
    let waiting = std::iter::from_fn(|| paths.poll_transmit()).count();
    assert!(waiting <= 64, "{waiting} messages wait");
    assert_eq!(paths.handle_probe(Direct, &flood, START + Duration::from_secs(20)), Ok(()), "and then it goes on");
}

#[test]
fn what_the_peer_says_that_it_hears_is_shown_and_not_believed() {
    let mut peer = Peer::talking();
    let lie = Hearing { age: Some(Duration::from_secs(3)), requests: u32::MAX };
    peer.say(Direct, &Message { hearing: [None, Some(lie)], ..request(1) }, SMALL).unwrap();
    let gateway = peer.report(Gateway);
    assert_eq!((gateway.peer_got, gateway.peer_heard), (Some(u32::MAX), Some(Duration::from_secs(3))));
    assert!(gateway.usable);
    assert_eq!(peer.by(), (Some(Direct), false));
}

/// One thing that is done to the machine.
#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Up(usize),
    Away(usize),
    Sent,
    Received(usize),
    Retry,
    Mtu(u16),
    Bytes(usize, Vec<u8>),
    Request(usize, u64, usize),
    Reply(usize, u64),
    Take,
}

fn act() -> impl Strategy<Value = Act> {
    let path = 0..2usize;
    prop_oneof![
        4 => (0..3_000u64).prop_map(Act::Pass),
        1 => any::<u64>().prop_map(Act::Pass),
        2 => path.clone().prop_map(Act::Up),
        1 => path.clone().prop_map(Act::Away),
        3 => Just(Act::Sent),
        2 => path.clone().prop_map(Act::Received),
        1 => Just(Act::Retry),
        1 => any::<u16>().prop_map(Act::Mtu),
        1 => (path.clone(), proptest::collection::vec(any::<u8>(), 0..100)).prop_map(|(path, bytes)| Act::Bytes(path, bytes)),
        3 => (path.clone(), any::<u64>(), 0..2000usize).prop_map(|(path, sequence, bytes)| Act::Request(path, sequence, bytes)),
        4 => (path, 0..40u64).prop_map(|(path, back)| Act::Reply(path, back)),
        2 => Just(Act::Take),
    ]
}

proptest! {
    /// Any calls in any order, messages taken or not, at any time: nothing panics, nothing grows, and the route leads only where
    /// there is a path, and somewhere if there is one.
    #[test]
    fn nothing_upsets_it(seed in any::<u64>(), acts in proptest::collection::vec(act(), 1..300)) {
        let mut paths = Selector::new(1420, seed, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut up = [false; 2];
        let mut last = seed >> 1;
        for act in acts {
            match act {
                Act::Pass(milliseconds) => now = now.saturating_add(Duration::from_millis(milliseconds)).min(Duration::from_secs(1 << 40)),
                Act::Up(path) => { up[path] = true; paths.path_up(KINDS[path], now); }
                Act::Away(path) => { up[path] = false; paths.path_away(KINDS[path], None, now); }
                Act::Sent => paths.sent(now),
                Act::Received(path) => paths.received(KINDS[path], now),
                Act::Retry => paths.retry(now),
                Act::Mtu(mtu) => paths.set_mtu(mtu),
                Act::Bytes(path, bytes) => { let _ = paths.handle_probe(KINDS[path], &bytes, now); }
                Act::Request(path, sequence, bytes) => {
                    let message = Message { kind: MessageKind::Request, path: KINDS[path], sequence, hearing: NOTHING };
                    let _ = paths.handle_probe(KINDS[path], &message.encode(bytes), now);
                }
                Act::Reply(path, back) => {
                    let _ = paths.handle_probe(KINDS[path], &reply(KINDS[path], last.wrapping_sub(back)).encode(SMALL), now);
                }
                Act::Take => while let Some(transmit) = paths.poll_transmit() {
                    let message = Message::parse(&transmit.payload).unwrap();
                    if message.kind == MessageKind::Request { last = message.sequence; }
                },
            }
            paths.handle_timeout(now);
            prop_assert!(paths.poll_timeout().is_none_or(|at| at > now));
            let route = &paths;
            for kind in KINDS {
                prop_assert!(up[mesh_paths::path::rank(kind)] || !route.carries(kind));
            }
            prop_assert_eq!(route.primary().is_some(), up.contains(&true));
            prop_assert!(route.primary().is_none_or(|primary| route.carries(primary)));
            let _ = paths.report(now);
        }
        while paths.poll_transmit().is_some() {}
        let state = format!("{paths:?}").len();
        prop_assert!(state < 30_000, "{} bytes of state", state);
    }
}
