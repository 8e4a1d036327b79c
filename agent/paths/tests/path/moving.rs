//! The rules for a host that moves, or whose peer does, and what counts as loss around that.

use std::time::Duration;

use mesh_paths::path::{KINDS, PathKind, Trouble};

use crate::peer::{Answers, Peer, switches};

use PathKind::{Direct, Gateway};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_changed_network_is_tried_at_once() {
    let mut peer = Peer::new();
    peer.run(20.0);
    peer.sent.clear();
    for _ in 0..10 {
        peer.paths.retry(peer.now);
        peer.run(0.001);
    }
    assert!(peer.route().is_hedged());
    assert_eq!(KINDS.map(|kind| peer.times(kind).len()), [1, 1]);
    // They were sent before the last change: others follow.
    peer.run(0.15);
    assert_eq!(peer.by(), (Some(Direct), false));
}

#[test]
fn packets_take_all_paths_from_a_change_of_the_network_to_the_next_answer() {
    let mut peer = Peer::talking();
    peer.sent.clear();
    for _ in 0..10 {
        peer.paths.retry(peer.now);
        assert!(peer.route().is_hedged());
        peer.run(0.001);
    }
    assert!(peer.sent.len() <= 2, "{} probes", peer.sent.len());
    peer.run(0.4);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(switches(&mut peer), []);
}

#[test]
fn a_changed_network_is_asked_until_it_answers() {
    let mut peer = Peer::new();
    peer.run(20.0);
    // The address is gone, and another one is there a moment later.
    peer.answers = [Answers::None; 2];
    peer.paths.retry(peer.now);
    peer.run(0.1);
    peer.paths.retry(peer.now);
    peer.run(0.6);
    assert!(peer.route().is_hedged());
    peer.answers = [Answers::All; 2];
    let took = peer.run_until(SECOND, |peer| !peer.route().is_hedged());
    assert!(took <= MS * 280, "{took:?}");
    peer.run(0.3);
    for kind in KINDS {
        assert_eq!((peer.report(kind).trouble, peer.report(kind).loss), (None, Some(0.0)), "{kind:?}");
    }
    peer.sent.clear();
    peer.run(20.0);
    assert_eq!(peer.sent, [], "it is idle as before");
}

#[test]
fn a_path_that_a_changed_network_does_not_have_is_not_asked_for_long() {
    let mut peer = Peer::new();
    peer.run(20.0);
    peer.sent.clear();
    peer.answers = [Answers::None; 2];
    peer.paths.retry(peer.now);
    peer.run(20.0);
    for kind in KINDS {
        assert!((10..=13).contains(&peer.times(kind).len()), "{kind:?}: {:?}", peer.times(kind));
    }
}

#[test]
fn an_endpoint_that_moved_proves_itself_anew() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.up(Direct);
    assert_eq!(peer.by(), (Some(Direct), true));
    assert_eq!((peer.report(Direct).rtt, peer.report(Direct).mtu, peer.report(Direct).loss), (None, None, None));
}

#[test]
fn an_idle_endpoint_that_moves_again_and_again_is_probed_once_a_second() {
    let mut peer = Peer::new();
    peer.run(20.0);
    peer.sent.clear();
    for _ in 0..20 {
        peer.up(Direct);
        peer.run(0.1);
    }
    assert_eq!(peer.times(Direct).len(), 2, "{:?}", peer.sent);
    assert_eq!(peer.report(Direct).trouble, Some(Trouble::Unproved));
    peer.run(1.0);
    peer.up(Direct);
    peer.run(0.1);
    assert_eq!(peer.report(Direct).trouble, None);
}

#[test]
fn what_was_sent_before_a_path_was_up_is_no_loss() {
    let mut peer = Peer::without_paths();
    peer.talks = true;
    peer.answers = [Answers::None; 2];
    peer.up(Direct);
    peer.up(Gateway);
    peer.run(5.0);
    assert_eq!(KINDS.map(|kind| peer.report(kind).loss), [None; 2]);
    peer.answers = [Answers::All; 2];
    peer.run(10.0);
    assert_eq!(KINDS.map(|kind| peer.report(kind).loss), [Some(0.0); 2]);
    // What is lost while it is up counts, and until it is down.
    peer.answers[0] = Answers::None;
    peer.run(15.0);
    assert!(peer.report(Direct).loss > Some(0.5), "{:?}", peer.report(Direct));
    peer.answers[0] = Answers::All;
    let is_answered = |peer: &Peer| peer.report(Direct).unanswered == 0;
    peer.run_until(SECOND * 5, is_answered);
    assert_eq!(peer.report(Direct).loss, Some(0.0));
}

#[test]
fn a_short_silence_is_a_loss() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.run(1.5);
    peer.answers[0] = Answers::All;
    peer.run(2.0);
    assert!(peer.report(Direct).loss > Some(0.1), "{:?}", peer.report(Direct));
}
