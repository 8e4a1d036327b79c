//! Each rule alone: when calls are made and repeated, what is tried and when, and what is passed on.

use std::{net::SocketAddr, time::Duration};

use mesh_paths::punch::{Message, MessageKind, Punch, PunchError};

use crate::{at, mesh};

/// What happened, and when.
type Timed<T> = Vec<(Duration, T)>;

const START: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);
const OWN: &str = "198.51.100.1:40000";
const THEIRS: &str = "198.51.100.2:40000";

const fn after(milliseconds: u64) -> Duration {
    START.saturating_add(Duration::from_millis(milliseconds))
}

fn punch() -> Punch {
    let mut punch = Punch::new(mesh(), 7, START);
    punch.set_own(&[at(OWN)]);
    punch
}

/// With a gateway path, and its first call.
fn calling() -> (Punch, Message) {
    let mut punch = punch();
    punch.gateway(true, START);
    let call = sent(&mut punch).unwrap();
    (punch, call)
}

fn sent(punch: &mut Punch) -> Option<Message> {
    punch.poll_transmit().map(|payload| Message::parse(&payload).unwrap())
}

fn message(kind: MessageKind, round: u32, candidates: &[&str]) -> Message {
    let candidates = candidates.iter().map(|address| at(address)).collect();
    Message { kind, lacks_direct: true, round, candidates, seen: None }
}

fn say(punch: &mut Punch, message: &Message, now: Duration) -> Result<(), PunchError> {
    punch.handle_message(&message.encode(), now)
}

/// What it wants to send and to try until `end`, and when; what was wanted before, at the start.
fn run(punch: &mut Punch, end: Duration) -> (Timed<Message>, Timed<SocketAddr>) {
    let (mut calls, mut tries) = (Vec::new(), Vec::new());
    let mut now = START;
    loop {
        calls.extend(std::iter::from_fn(|| sent(punch)).map(|message| (now, message)));
        tries.extend(std::iter::from_fn(|| punch.poll_try()).map(|address| (now, address)));
        let Some(due) = punch.poll_timeout().filter(|due| *due <= end) else { return (calls, tries) };
        assert!(due > now, "woken again at {due:?}");
        now = due;
        punch.handle_timeout(now);
    }
}

fn times<T>(events: &[(Duration, T)]) -> Vec<u128> {
    events.iter().map(|(at, _)| (*at - START).as_millis()).collect()
}

#[test]
fn calls_at_once_when_the_gateway_path_comes_up() {
    let mut punch = punch();
    assert_eq!((sent(&mut punch), punch.poll_timeout()), (None, None), "without a path there is no peer to call");
    punch.gateway(true, START);
    let call = sent(&mut punch).unwrap();
    assert_eq!(call, message(MessageKind::Call, call.round, &[OWN]));
    assert_eq!(sent(&mut punch), None);
    punch.gateway(true, after(300));
    assert_eq!(sent(&mut punch), None, "it did not come up again");
}

#[test]
fn repeats_a_call_until_it_is_answered() {
    let (mut punch, call) = calling();
    let (calls, _) = run(&mut punch, after(4_900));
    assert_eq!(times(&calls), [500, 1_500, 3_500]);
    assert!(calls.iter().all(|(_, again)| *again == call));
    say(&mut punch, &message(MessageKind::Answer, call.round, &[]), after(4_950)).unwrap();
    let (mut punch, call) = calling();
    say(&mut punch, &message(MessageKind::Answer, call.round, &[]), after(100)).unwrap();
    assert_eq!(run(&mut punch, after(4_900)).0, []);
}

#[test]
fn calls_again_while_direct_udp_does_not_work() {
    let (mut punch, _) = calling();
    let (calls, _) = run(&mut punch, after(1_300_000));
    let mut rounds = calls;
    rounds.dedup_by_key(|(_, call)| call.round);
    let mut last = START;
    let gaps =
        rounds.iter().skip(1).map(|(at, _)| at.saturating_sub(std::mem::replace(&mut last, *at))).collect::<Vec<_>>();
    for (gap, seconds) in gaps.iter().zip([5, 10, 30, 300, 300, 300]) {
        let least = SECOND * seconds;
        assert!((least..=least * 6 / 5).contains(gap), "{gap:?} instead of {least:?}");
    }
    assert!(gaps.len() >= 6 && gaps[4] != gaps[5], "{gaps:?}");
}

#[test]
fn an_answer_counts_once_and_only_to_the_last_call() {
    let (mut punch, call) = calling();
    let answer = |round| message(MessageKind::Answer, round, &[THEIRS]);
    assert_eq!(say(&mut punch, &answer(call.round + 1), START), Err(PunchError::Unasked(call.round + 1)));
    assert_eq!(say(&mut punch, &answer(call.round - 1), START), Err(PunchError::Unasked(call.round - 1)));
    assert_eq!(punch.poll_try(), None);
    assert_eq!(say(&mut punch, &answer(call.round), START), Ok(()));
    assert_eq!(punch.poll_try(), Some(at(THEIRS)));
    assert_eq!(say(&mut punch, &answer(call.round), START), Err(PunchError::Unasked(call.round)));
}

#[test]
fn answers_a_call_with_its_number_and_tries_at_once() {
    let mut punch = punch();
    punch.gateway(true, START);
    assert_eq!(sent(&mut punch).unwrap().kind, MessageKind::Call);
    say(&mut punch, &message(MessageKind::Call, 77, &[THEIRS]), after(100)).unwrap();
    assert_eq!(sent(&mut punch), Some(message(MessageKind::Answer, 77, &[OWN])));
    let (_, tries) = run(&mut punch, after(4_900));
    assert_eq!(times(&tries), [0, 300, 500, 900, 1_700], "the first was wanted before");
    assert!(tries.iter().all(|(_, address)| *address == at(THEIRS)));
}

#[test]
fn a_call_of_the_peer_is_a_round_of_ours_too() {
    let (mut punch, call) = calling();
    say(&mut punch, &message(MessageKind::Answer, call.round, &[]), after(10)).unwrap();
    say(&mut punch, &message(MessageKind::Call, 1, &[]), after(20)).unwrap();
    say(&mut punch, &message(MessageKind::Call, 2, &[]), after(4_000)).unwrap();
    assert_eq!(sent(&mut punch).unwrap().kind, MessageKind::Answer);
    let (calls, _) = run(&mut punch, after(13_999));
    assert_eq!(calls, [], "the second call began a round at 4 s, and 10 s have to pass");
    let (calls, _) = run(&mut punch, after(16_000));
    assert_eq!(calls[0].1.kind, MessageKind::Call);
}

#[test]
fn tries_four_addresses_side_by_side_and_others_after_them() {
    let theirs = (1..=6).map(|n| format!("192.0.2.{n}:1")).collect::<Vec<_>>();
    let (mut punch, call) = calling();
    say(
        &mut punch,
        &message(MessageKind::Answer, call.round, &theirs.iter().map(String::as_str).collect::<Vec<_>>()),
        START,
    )
    .unwrap();
    let first = std::iter::from_fn(|| punch.poll_try()).collect::<Vec<_>>();
    assert_eq!(first, theirs[..4].iter().map(|address| at(address)).collect::<Vec<_>>(), "best first");
    let (_, tries) = run(&mut punch, after(4_900));
    let of =
        |n: usize| times(&tries.iter().filter(|(_, address)| *address == at(&theirs[n])).copied().collect::<Vec<_>>());
    assert_eq!(of(3), [200, 400, 800, 1_600]);
    assert_eq!((of(4), of(5)), (vec![1_600, 1_800, 2_000, 2_400, 3_200], vec![1_600, 1_800, 2_000, 2_400, 3_200]));
}

#[test]
fn what_no_peer_can_be_at_is_neither_tried_nor_passed_on() {
    let not = [
        "0.0.0.0:1",
        "0.1.2.3:1",
        "127.0.0.1:1",
        "169.254.1.1:1",
        "224.0.0.1:1",
        "239.1.1.1:1",
        "240.0.0.1:1",
        "255.255.255.255:1",
        "10.0.1.7:51820",
        "192.0.2.1:0",
        "[::]:1",
        "[::1]:1",
        "[fe80::1]:1",
        "[fec0::1]:1",
        "[ff02::1]:1",
        "[::ffff:127.0.0.1]:1",
        "[::ffff:10.0.1.7]:1",
        "[::192.0.2.1]:1",
    ];
    for address in not {
        let (mut punch, call) = calling();
        say(&mut punch, &message(MessageKind::Answer, call.round, &[address]), START).unwrap();
        assert_eq!(punch.poll_try(), None, "{address}");
        punch.set_own(&[at(address), at(OWN)]);
        say(&mut punch, &message(MessageKind::Call, 1, &[]), START).unwrap();
        assert_eq!(sent(&mut punch).unwrap().candidates, [at(OWN)], "{address}");
        let seen = Message { seen: Some(at(address)), ..message(MessageKind::Call, 2, &[]) };
        say(&mut punch, &seen, START).unwrap();
        assert_eq!(punch.poll_seen_by_peer(), None, "{address}");
    }
    let (mut punch, call) = calling();
    say(&mut punch, &message(MessageKind::Answer, call.round, &["[::ffff:192.0.2.1]:9", "192.0.2.1:9"]), START)
        .unwrap();
    assert_eq!((punch.poll_try(), punch.poll_try()), (Some(at("192.0.2.1:9")), None), "one address, in its own form");
}

#[test]
fn private_addresses_unless_both_are_behind_other_nats() {
    let tried = |own: &[&str], theirs: &[&str]| {
        let (mut punch, call) = calling();
        punch.set_own(&own.iter().map(|address| at(address)).collect::<Vec<_>>());
        say(&mut punch, &message(MessageKind::Answer, call.round, theirs), START).unwrap();
        std::iter::from_fn(|| punch.poll_try()).map(|address| address.to_string()).collect::<Vec<_>>()
    };
    let [mine, near, far] = ["198.51.100.1:40000", "198.51.100.1:40001", "198.51.100.2:40000"];
    for private in ["192.168.1.2:51820", "172.16.0.1:51820", "10.0.2.15:51820", "100.64.0.1:51820"] {
        assert_eq!(tried(&[mine], &[far, private]), [far], "another NAT");
        assert_eq!(tried(&[mine], &[near, private]), [near, private], "the same NAT: by its hairpin in any case");
        assert_eq!(tried(&[mine], &[private]), [private], "it may be near");
        assert_eq!(tried(&["192.168.1.9:1"], &[far, private]), [far, private], "it may be near");
        assert_eq!(tried(&[mine, private], &[near, private]), [near], "never itself");
    }
    assert_eq!(tried(&[mine, "[fd00::1]:1"], &[far, "[fd00::2]:1"]), [far, "[fd00::2]:1"], "each family for itself");
    assert_eq!(tried(&["[2001:db8::1]:1"], &["[2001:db8::2]:1", "[fd00::2]:1"]), ["[2001:db8::2]:1"]);
}

#[test]
fn a_path_that_is_found_ends_the_attempts_and_the_calls() {
    let (mut punch, call) = calling();
    say(&mut punch, &message(MessageKind::Answer, call.round, &[THEIRS]), START).unwrap();
    assert_eq!(punch.poll_try(), Some(at(THEIRS)));
    punch.direct(true, after(100));
    assert_eq!(run(&mut punch, after(3_600_000)), (Vec::new(), Vec::new()));
    say(&mut punch, &Message { lacks_direct: false, ..message(MessageKind::Call, 5, &[THEIRS]) }, after(3_600_000))
        .unwrap();
    assert_eq!(punch.poll_try(), None, "it works for both");
    assert!(!sent(&mut punch).unwrap().lacks_direct);
    say(&mut punch, &message(MessageKind::Call, 6, &[THEIRS]), after(3_600_000)).unwrap();
    assert_eq!(punch.poll_try(), Some(at(THEIRS)), "for the peer it does not");
}

/// Two nodes that have just met by direct UDP: who proves it first tells the other what it sees.
#[test]
fn news_of_a_peer_that_has_direct_udp_is_no_reason_to_try() {
    let news = |round| Message { lacks_direct: false, ..message(MessageKind::Call, round, &[THEIRS]) };
    let mut punch = punch();
    say(&mut punch, &news(5), START).unwrap();
    assert_eq!(run(&mut punch, after(3_600_000)), (Vec::new(), Vec::new()));

    // Where ours does not come to work, we go on calling as before.
    let (mut punch, _) = calling();
    say(&mut punch, &news(5), START).unwrap();
    let (calls, tries) = run(&mut punch, after(600));
    assert_eq!((times(&calls), tries), (vec![0, 500], Vec::new()), "an answer, and the call again");
    let (calls, _) = run(&mut punch, after(6_000));
    let own = calls.iter().map(|(_, call)| call.round).max().unwrap();
    say(&mut punch, &Message { kind: MessageKind::Answer, ..news(own) }, after(6_000)).unwrap();
    assert_eq!(punch.poll_try(), Some(at(THEIRS)));
}

#[test]
fn a_new_round_at_once_when_something_changes_but_not_twice_in_a_second() {
    let next_call = |change: &dyn Fn(&mut Punch, Duration)| {
        let (mut punch, call) = calling();
        say(&mut punch, &message(MessageKind::Answer, call.round, &[]), START).unwrap();
        punch.handle_timeout(after(3_000));
        change(&mut punch, after(3_000));
        punch.handle_timeout(after(3_000));
        let new = sent(&mut punch);
        assert!(new.as_ref().is_none_or(|new| new.round == call.round + 1));
        (new.is_some(), punch)
    };
    assert!(!next_call(&|_, _| {}).0);
    assert!(!next_call(&|punch, _| punch.set_own(&[at(OWN)])).0, "as before");
    assert!(!next_call(&|punch, _| punch.set_own(&[])).0, "fewer");
    assert!(next_call(&|punch, _| punch.set_own(&[at(OWN), at("192.0.2.9:9")])).0, "a new one");
    assert!(next_call(&|punch, now| punch.retry(now)).0);
    assert!(next_call(&|punch, now| (punch.gateway(false, now), punch.gateway(true, now)).1).0);
    assert!(next_call(&|punch, now| (punch.direct(true, now), punch.direct(false, now)).1).0);
    let (_, mut punch) = next_call(&|punch, now| punch.retry(now));
    punch.retry(after(3_300));
    punch.retry(after(3_400));
    let (calls, _) = run(&mut punch, after(4_400));
    assert_eq!(times(&calls), [3_500, 4_000], "the call without an answer again, and one new call for both");
}

#[test]
fn without_a_way_nothing_is_sent() {
    let (mut punch, _) = calling();
    punch.gateway(false, after(100));
    say(&mut punch, &message(MessageKind::Call, 1, &[]), after(100)).unwrap();
    punch.retry(after(200));
    assert_eq!((punch.poll_transmit(), punch.poll_timeout()), (None, None));
    punch.gateway(true, after(5_000));
    assert_eq!(sent(&mut punch).unwrap().kind, MessageKind::Call, "and what was to be answered then is forgotten");
}

#[test]
fn the_peer_learns_where_it_is_seen() {
    let mut punch = punch();
    punch.direct(true, START);
    let first = sent(&mut punch).unwrap();
    assert_eq!((first.seen, first.lacks_direct), (None, false), "the first path: perhaps the peer has news");
    say(&mut punch, &message(MessageKind::Answer, first.round, &[]), START).unwrap();
    punch.handle_timeout(after(2_000));
    punch.set_seen(Some(at(THEIRS)));
    punch.handle_timeout(after(2_000));
    assert_eq!(sent(&mut punch).unwrap().seen, Some(at(THEIRS)));
    let (calls, _) = run(&mut punch, after(60_000));
    assert_eq!(times(&calls), [2_500, 3_500, 5_500], "again until it is answered, but no schedule");
    punch.set_seen(Some(at(THEIRS)));
    punch.set_seen(None);
    punch.set_seen(Some(at(THEIRS)));
    punch.handle_timeout(after(61_000));
    assert_eq!(sent(&mut punch), None, "no news");
}

#[test]
fn a_path_that_is_found_does_not_keep_back_what_is_seen_by_it() {
    for seen_first in [true, false] {
        let (mut punch, call) = calling();
        say(&mut punch, &message(MessageKind::Answer, call.round, &[]), START).unwrap();
        punch.handle_timeout(after(3_000));
        if seen_first {
            punch.set_seen(Some(at(THEIRS)));
        }
        punch.direct(true, after(3_000));
        punch.set_seen(Some(at(THEIRS)));
        let (calls, _) = run(&mut punch, after(3_100));
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].1.seen, calls[0].1.lacks_direct), (Some(at(THEIRS)), false));
    }
}

#[test]
fn what_the_peer_sees_is_passed_on_once_and_changes_once_a_minute() {
    let (mut punch, _) = calling();
    let see = |punch: &mut Punch, seen: &str, now| {
        let message = Message { seen: Some(at(seen)), ..message(MessageKind::Call, 1, &[]) };
        say(punch, &message, now).unwrap();
        punch.poll_seen_by_peer().map(|address| address.to_string())
    };
    assert_eq!(see(&mut punch, "192.0.2.1:1", START).as_deref(), Some("192.0.2.1:1"));
    assert_eq!(see(&mut punch, "192.0.2.1:1", after(1_000)), None);
    for second in 2..50 {
        assert_eq!(see(&mut punch, &format!("192.0.2.1:{second}"), after(second * 1_000)), None);
    }
    assert!(punch.poll_timeout().unwrap() <= after(60_000));
    run(&mut punch, after(60_000));
    assert_eq!(punch.poll_seen_by_peer(), Some(at("192.0.2.1:49")), "the last word");
    assert_eq!(punch.poll_seen_by_peer(), None);
}
