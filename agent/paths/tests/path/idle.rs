//! The same rules for peers that do not talk: how often they are probed, and what is known of them.

use std::time::Duration;

use mesh_paths::path::{KINDS, PathKind, SMALL, Selector, Trouble};

use crate::peer::{Answers, Peer, START, Sent, switches};

use PathKind::{Direct, Gateway};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_better_path_is_taken_soon_also_without_traffic() {
    let mut peer = Peer::without_paths();
    peer.up(Gateway);
    peer.run(60.0);
    peer.up(Direct);
    let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Direct), false));
    assert!((SECOND * 2..SECOND * 8).contains(&took), "taken after {took:?}");
}

#[test]
fn an_idle_path_that_failed_is_not_believed_after_one_answer() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::Loses(600);
    peer.run_until(MINUTE, |peer| peer.by() == (Some(Gateway), false));
    peer.talks = false;
    for _ in 0..600 {
        peer.run(1.0);
        assert_eq!(peer.by().0, Some(Gateway));
    }
    peer.answers[0] = Answers::All;
    let took = peer.run_until(MINUTE * 10, |peer| peer.by() == (Some(Direct), false));
    assert!((MINUTE * 3..MINUTE * 6).contains(&took), "back after {took:?}");
}

#[test]
fn idle_peers_are_probed_every_25_seconds() {
    let mut peer = Peer::new();
    peer.run(30.0);
    peer.sent.clear();
    peer.run(3600.0);
    for kind in KINDS {
        let times = peer.times(kind);
        assert!((130..=144).contains(&times.len()), "{kind:?}: {} probes in an hour", times.len());
        let closest = times.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(closest >= SECOND * 25, "{closest:?}");
    }
    for kind in KINDS {
        let is_long = |sent: &&Sent| sent.by == kind && sent.bytes == 1392;
        let long = peer.sent.iter().filter(is_long).count();
        assert!((10..=13).contains(&long), "{kind:?}: {long} of full size in an hour");
    }
    assert!(peer.sent.iter().all(|sent| [SMALL, 1392].contains(&sent.bytes)), "{:?}", peer.sent);
    assert_eq!(peer.by(), (Some(Direct), false));
}

#[test]
fn an_idle_path_for_small_packets_only_is_found_out_in_some_minutes() {
    let mut peer = Peer::new();
    peer.run(30.0);
    peer.answers[0] = Answers::Small;
    let is_found_out = |peer: &Peer| peer.report(Direct).trouble == Some(Trouble::SmallOnly);
    let took = peer.run_until(MINUTE * 20, is_found_out);
    assert!((MINUTE * 4..MINUTE * 7).contains(&took), "found out after {took:?}");
    assert!(peer.is_suspect());
}

#[test]
fn dead_idle_peers_are_probed_no_more_often() {
    let mut peer = Peer::new();
    peer.run(30.0);
    peer.answers = [Answers::None, Answers::Small];
    peer.sent.clear();
    peer.run(600.0);
    for kind in KINDS {
        let closest = peer.times(kind).windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(closest >= SECOND * 25, "{kind:?}: {closest:?}");
    }
    assert_eq!(peer.report(Direct).trouble, Some(Trouble::Silent));
    assert_eq!(peer.report(Gateway).trouble, Some(Trouble::SmallOnly));
}

#[test]
fn one_lost_probe_of_an_idle_peer_is_no_news() {
    let mut peer = Peer::new();
    peer.run(40.0);
    peer.answers[0] = Answers::None;
    let seen = peer.times(Direct).len();
    peer.run_until(MINUTE, |peer| peer.times(Direct).len() > seen);
    peer.run(20.0);
    assert_eq!((peer.by(), peer.report(Direct).unanswered), ((Some(Direct), false), 1));
    let took = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
    assert!(took < SECOND * 10, "two are");
    peer.answers[0] = Answers::All;
    peer.run(30.0);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(switches(&mut peer), []);
}

#[test]
fn talking_again_asks_at_once() {
    let mut peer = Peer::new();
    peer.run(33.0);
    peer.sent.clear();
    peer.talks = true;
    peer.run(0.05);
    assert_eq!(peer.times(Direct).len(), 1);
    peer.answers[0] = Answers::None;
    let took = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
    assert!(took < SECOND + MS * 400, "suspect after {took:?}");
}

#[test]
fn after_an_idle_day_nothing_is_left_unasked() {
    let mut peer = Peer::new();
    peer.run(40.0);
    peer.answers[0] = Answers::None;
    let took = peer.run_until(MINUTE, |peer| peer.route().is_hedged());
    assert!(took < MINUTE);
    peer.run(20.0);
    peer.answers[0] = Answers::All;
    peer.talks = true;
    peer.run(60.0);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(switches(&mut peer), []);
}

#[test]
fn hearing_a_peer_causes_no_probe() {
    let mut peer = Peer::new();
    peer.run(30.0);
    peer.sent.clear();
    peer.hears = Some(Gateway);
    peer.run(100.0);
    assert!(peer.sent.len() <= 8, "{} probes", peer.sent.len());
}

#[test]
fn peers_are_not_probed_in_one_moment() {
    let due = |seed| {
        let mut paths = Selector::new(1420, seed, START);
        KINDS.into_iter().for_each(|kind| paths.path_up(kind, START));
        paths.handle_timeout(START + SECOND * 60);
        paths.poll_timeout().unwrap()
    };
    let moments: std::collections::BTreeSet<_> = (0..100).map(due).collect();
    assert!(moments.len() > 50, "{} moments for 100 peers", moments.len());
    assert!(*moments.last().unwrap() - *moments.first().unwrap() > SECOND);
}
