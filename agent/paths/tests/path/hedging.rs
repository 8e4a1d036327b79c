//! When packets go by both paths: before the path in use is suspect, and not without reason.

use std::time::Duration;

use mesh_paths::path::PathKind::{Direct, Gateway};

use crate::{
    link::Dice,
    peer::{Answers, Peer},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Lets this time pass, in which packets never go by both paths.
fn run_unhedged(peer: &mut Peer, time: Duration) {
    let took = peer.run_until(time, |peer| peer.route().is_hedged());
    assert!(!peer.route().is_hedged(), "hedged after {took:?}: {:#?}", peer.paths.report(peer.now));
}

#[test]
fn packets_go_by_both_when_two_answers_are_late_and_a_second_makes_the_path_suspect() {
    for tenths in 0..30 {
        let mut peer = Peer::talking();
        peer.run(0.1 * f64::from(tenths));
        peer.answers[0] = Answers::None;
        let hedged = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
        assert!((MS * 350..MS * 700).contains(&hedged), "by both after {hedged:?}");
        assert_eq!((peer.by(), peer.is_suspect()), ((Some(Direct), true), false));
        assert_eq!(peer.report(Direct).trouble, None);
        let suspect = hedged + peer.run_until(MINUTE, Peer::is_suspect);
        assert!((SECOND..SECOND + MS * 300).contains(&suspect), "suspect after {suspect:?}");
        assert_eq!(peer.by(), (Some(Direct), true));
    }
}

#[test]
fn one_late_answer_is_enough_when_the_peer_comes_by_the_other_path() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.hears = Some(Gateway);
    let hedged = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
    assert!((MS * 100..MS * 420).contains(&hedged), "by both after {hedged:?}");
    assert!(!peer.is_suspect());
    peer.answers[0] = Answers::All;
    let answered = peer.run_until(MINUTE, |peer| !peer.route().is_hedged());
    assert!(answered < MS * 300, "by one after {answered:?}");
    run_unhedged(&mut peer, MINUTE);
    assert_eq!(peer.paths.poll_switch(), None);
}

#[test]
fn a_longer_round_trip_is_waited_for() {
    let mut peer = Peer::new();
    (peer.rtt, peer.talks) = (MS * 400, true);
    peer.run(10.0);
    assert_eq!(peer.by(), (Some(Direct), false));
    run_unhedged(&mut peer, MINUTE);
    peer.answers[0] = Answers::None;
    let hedged = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
    assert!((MS * 700..MS * 1100).contains(&hedged), "by both after {hedged:?}");
    let suspect = hedged + peer.run_until(MINUTE, Peer::is_suspect);
    assert!((SECOND + MS * 300..SECOND + MS * 800).contains(&suspect), "suspect after {suspect:?}");
}

#[test]
fn a_path_that_slows_down_is_no_reason() {
    let mut peer = Peer::talking();
    peer.rtt = MS * 300;
    run_unhedged(&mut peer, MINUTE);
}

#[test]
fn a_lost_probe_now_and_then_is_no_reason() {
    let mut peer = Peer::talking();
    for _ in 0..50 {
        peer.answers[0] = Answers::None;
        let seen = peer.times(Direct).len();
        let took = peer.run_until(SECOND, |peer| peer.times(Direct).len() > seen);
        assert!(took < SECOND, "no probe within {took:?}");
        peer.answers[0] = Answers::All;
        run_unhedged(&mut peer, SECOND * 4);
    }
    assert_eq!(peer.paths.poll_switch(), None);
}

#[test]
fn a_path_that_fails_again_and_again_is_left_although_each_time_it_recovers() {
    let mut peer = Peer::talking();
    let mut hedged = 0;
    for tenth in 0..600 {
        let fails = tenth % 45 < 16;
        peer.answers[0] = if fails { Answers::None } else { Answers::All };
        peer.run(0.1);
        hedged += u32::from(peer.route().is_hedged());
    }
    assert!(hedged <= 60, "hedges for {hedged} tenths of a second");
    assert_eq!(peer.by(), (Some(Gateway), false));
    assert!(peer.paths.poll_switch().is_some_and(|switch| switch.trouble.is_some()));
    assert_eq!(peer.paths.poll_switch(), None);
}

#[test]
fn a_path_that_loses_much_is_left_whatever_the_luck() {
    for share in [300, 400, 500, 600, 700, 800] {
        for seed in 0..100 {
            let mut peer = Peer::talking();
            peer.dice = Dice::new(seed);
            peer.answers[0] = Answers::Loses(share);
            let (mut tenths, mut hedged) = (0, 0);
            while peer.by() != (Some(Gateway), false) {
                peer.run(0.1);
                tenths += 1;
                hedged += u32::from(peer.route().is_hedged());
                let seen = format!("{share}, seed {seed}: by both for {hedged} tenths of a second of {tenths}");
                assert!(hedged <= 60 && tenths <= 200, "{seen}");
            }
        }
    }
}

#[test]
fn a_failure_long_after_the_last_is_bridged_like_the_first() {
    let mut peer = Peer::talking();
    for _ in 0..20 {
        peer.answers[0] = Answers::None;
        peer.run(1.7);
        assert!(peer.is_suspect());
        peer.answers[0] = Answers::All;
        peer.run(15.0);
        assert_eq!(peer.by(), (Some(Direct), false));
    }
    assert_eq!(peer.paths.poll_switch(), None);
}
