//! A peer that names other people's addresses, or says too much.

use std::{net::SocketAddr, time::Duration};

use mesh_paths::punch::{LARGEST, Message, MessageKind, Punch, PunchError};
use proptest::prelude::*;

use crate::{at, mesh};

fn call(round: u32, candidates: Vec<SocketAddr>) -> Vec<u8> {
    Message { kind: MessageKind::Call, lacks_direct: true, round, candidates, seen: None }.encode()
}

fn most(times: &[Duration], window: Duration) -> usize {
    let within = |from: usize| times[from..].iter().take_while(|at| **at < times[from] + window).count();
    (0..times.len()).map(within).max().unwrap_or_default()
}

#[test]
fn a_peer_cannot_have_a_node_flood_another_host() {
    let mut punch = Punch::new(mesh(), 1, Duration::ZERO);
    punch.gateway(true, Duration::ZERO);
    let mut tries = Vec::new();
    for n in 0..400_000u32 {
        let now = Duration::from_millis(5) * n;
        // Always new addresses, or always the same ones.
        let victims =
            (0..8).map(|at| SocketAddr::new([192, 0, 2, at].into(), if n % 2 == 0 { 53 } else { n as u16 | 1 }));
        let _ = punch.handle_message(&call(n, victims.collect()), now);
        tries.extend(std::iter::from_fn(|| punch.poll_try()).map(|_| now));
        while punch.poll_transmit().is_some() {}
    }
    let (short, long) = (most(&tries, Duration::from_secs(10)), most(&tries, Duration::from_secs(300)));
    assert!((20..=40).contains(&short) && (200..=240).contains(&long), "{short} in 10 s, {long} in 5 min");
}

#[test]
fn a_flood_of_calls_gets_few_answers_and_no_memory() {
    let mut punch = Punch::new(mesh(), 1, Duration::ZERO);
    punch.gateway(true, Duration::ZERO);
    let (mut heard, mut answers) = (0, 0);
    for n in 0..100_000u32 {
        let result = punch.handle_message(&call(n, Vec::new()), Duration::from_micros(100) * n);
        assert!(matches!(result, Ok(()) | Err(PunchError::Flood)));
        heard += usize::from(result.is_ok());
        answers += std::iter::from_fn(|| punch.poll_transmit())
            .filter(|payload| Message::parse(payload).unwrap().kind == MessageKind::Answer)
            .count();
    }
    assert!((40..=50).contains(&answers) && answers == heard, "{answers} answers, {heard} heard in 10 s");
    assert_eq!(punch.handle_message(&call(1, Vec::new()), Duration::from_secs(20)), Ok(()), "and then it goes on");
}

#[test]
fn an_answer_is_never_much_longer_than_its_call() {
    let mut punch = Punch::new(mesh(), 1, Duration::ZERO);
    let own = (1..=100).map(|n| at(&format!("[2001:db8::{n}]:1"))).collect::<Vec<_>>();
    punch.set_own(&own);
    punch.gateway(true, Duration::ZERO);
    while let Some(payload) = punch.poll_transmit() {
        assert!(payload.len() <= LARGEST);
        assert_eq!(Message::parse(&payload).unwrap().candidates, own[..8]);
    }
}

/// One thing that is done to the machine.
#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Gateway(bool),
    Direct(bool),
    Retry,
    Own(Vec<u8>),
    Seen(Option<u8>),
    Bytes(Vec<u8>),
    Call(u32, Vec<u8>, bool, Option<u8>),
    Answer(u32, Vec<u8>),
    Take,
}

fn act() -> impl Strategy<Value = Act> {
    let hosts = proptest::collection::vec(any::<u8>(), 0..12);
    let host = proptest::option::of(any::<u8>());
    prop_oneof![
        4 => (0..3_000u64).prop_map(Act::Pass),
        1 => any::<u64>().prop_map(Act::Pass),
        2 => any::<bool>().prop_map(Act::Gateway),
        2 => any::<bool>().prop_map(Act::Direct),
        1 => Just(Act::Retry),
        2 => hosts.clone().prop_map(Act::Own),
        2 => host.clone().prop_map(Act::Seen),
        1 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Act::Bytes),
        4 => (any::<u32>(), hosts.clone(), any::<bool>(), host).prop_map(|(round, hosts, lacks, seen)| Act::Call(round, hosts, lacks, seen)),
        3 => (0..3u32, hosts).prop_map(|(back, hosts)| Act::Answer(back, hosts)),
        3 => Just(Act::Take),
    ]
}

proptest! {
    /// Any calls in any order, messages taken or not, at any time: nothing panics, nothing grows, no address of the mesh or of
    /// this node is tried, and attempts are few.
    #[test]
    fn nothing_upsets_it(seed in any::<u64>(), acts in proptest::collection::vec(act(), 1..300)) {
        let host = |n: u8| match n {
            0..=9 => SocketAddr::new([10, 0, 1, n].into(), 51820),
            10..=19 => SocketAddr::new([192, 168, 0, n].into(), 51820),
            _ => SocketAddr::new([198, 51, 100, n].into(), n.into()),
        };
        let list = |hosts: &[u8]| hosts.iter().map(|&n| host(n)).collect::<Vec<_>>();
        let mut punch = Punch::new(mesh(), seed, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut last = 0;
        let mut tries = Vec::new();
        for act in acts {
            match act {
                Act::Pass(milliseconds) => now = now.saturating_add(Duration::from_millis(milliseconds)).min(Duration::from_secs(1 << 40)),
                Act::Gateway(is_up) => punch.gateway(is_up, now),
                Act::Direct(works) => punch.direct(works, now),
                Act::Retry => punch.retry(now),
                Act::Own(hosts) => punch.set_own(&list(&hosts)),
                Act::Seen(seen) => punch.set_seen(seen.map(host)),
                Act::Bytes(bytes) => { let _ = punch.handle_message(&bytes, now); }
                Act::Call(round, hosts, lacks_direct, seen) => {
                    let (kind, candidates, seen) = (MessageKind::Call, list(&hosts), seen.map(host));
                    let _ = punch.handle_message(&Message { kind, lacks_direct, round, candidates, seen }.encode(), now);
                }
                Act::Answer(back, hosts) => {
                    let (kind, round, candidates) = (MessageKind::Answer, u32::wrapping_sub(last, back), list(&hosts));
                    let message = Message { kind, lacks_direct: true, round, candidates, seen: None };
                    let _ = punch.handle_message(&message.encode(), now);
                }
                Act::Take => {
                    while let Some(payload) = punch.poll_transmit() {
                        let message = Message::parse(&payload).unwrap();
                        prop_assert!(message.candidates.iter().chain(&message.seen).all(|address| !address.to_string().starts_with("10.0.1.")));
                        if message.kind == MessageKind::Call { last = message.round; }
                    }
                    let _ = punch.poll_seen_by_peer();
                }
            }
            punch.handle_timeout(now);
            while let Some(address) = punch.poll_try() {
                prop_assert!(!address.to_string().starts_with("10.0.1."));
                tries.push(now);
            }
        }
        prop_assert!(most(&tries, Duration::from_secs(10)) <= 40);
        while punch.poll_transmit().is_some() {}
        let _ = punch.poll_seen_by_peer();
        punch.handle_timeout(now);
        prop_assert!(punch.poll_timeout().is_none_or(|due| due > now));
        let state = format!("{punch:?}").len();
        prop_assert!(state < 10_000, "{} bytes of state", state);
    }
}
