//! Each rule of the choice alone, for peers that talk.

use std::time::Duration;

use mesh_core::status::Reason;
use mesh_paths::path::{KINDS, PathKind, Selector, Trouble};

use crate::peer::{Answers, Peer, START, switches};

use PathKind::{Direct, Gateway};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn without_a_path_nothing_is_sent_and_nothing_waits() {
    let mut paths = Selector::new(1420, 1, START);
    paths.sent(START);
    paths.handle_timeout(START + SECOND);
    assert_eq!((paths.poll_transmit(), paths.poll_timeout(), paths.primary()), (None, None, None));
    assert!(KINDS.into_iter().all(|kind| !paths.carries(kind)));
}

#[test]
fn packets_go_by_direct_alone_while_both_work() {
    let mut peer = Peer::talking();
    for _ in 0..600 {
        peer.run(0.1);
        assert_eq!(peer.by(), (Some(Direct), false));
    }
    assert_eq!(switches(&mut peer), []);
}

#[test]
fn until_a_path_is_proved_packets_go_by_all() {
    let mut peer = Peer::new();
    assert!(peer.route().is_hedged());
    assert_eq!(peer.report(Direct).trouble, Some(Trouble::Unproved));
    peer.run(0.03);
    assert_eq!(peer.by(), (Some(Direct), false));
}

#[test]
fn a_short_outage_is_bridged_and_switches_nothing() {
    // Silent after 1 s, left 3 s later, and what lost nothing for 2 s is not left: less a pause between probes, 1.7 s may pass.
    for tenths in 1..=17 {
        let mut peer = Peer::talking();
        peer.answers[0] = Answers::None;
        peer.run(0.1 * f64::from(tenths));
        assert!(tenths < 8 || peer.route().is_hedged());
        peer.answers[0] = Answers::All;
        peer.run(1.0);
        let took = SECOND + peer.run_until(MINUTE, |peer| !peer.route().is_hedged());
        assert!(took < SECOND * 3, "hedges for {took:?} after {tenths} tenths of a second");
        peer.run(60.0);
        assert_eq!(switches(&mut peer), [], "after {tenths} tenths of a second");
    }
}

#[test]
fn a_dead_path_is_left_for_one_that_works() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Gateway), false));
    assert!((SECOND * 4..SECOND * 5).contains(&took), "left after {took:?}");
    peer.run(120.0);
    assert_eq!(peer.by(), (Some(Gateway), false));
    assert_eq!(switches(&mut peer), [(Direct, Gateway, Some(Trouble::Silent))]);
    let direct = peer.report(Direct);
    assert_eq!((direct.usable, direct.reason, direct.loss), (false, Some(Reason::DirectUdpSilent), Some(1.0)));
    assert!(direct.unanswered > 30 && direct.unanswered_for > Some(SECOND * 120), "{direct:?}");
    assert!(direct.next_probe <= Some(SECOND * 4), "{direct:?}");
    assert!(peer.report(Gateway).usable);
}

#[test]
fn what_the_peer_sends_does_not_prove_that_it_hears_us() {
    let mut peer = Peer::talking();
    (peer.answers[0], peer.hears) = (Answers::None, Some(Direct));
    peer.run(1.4);
    assert_eq!(peer.by(), (Some(Direct), true));
    peer.run(5.0);
    assert_eq!(peer.by(), (Some(Gateway), false));
    assert_eq!(switches(&mut peer), [(Direct, Gateway, Some(Trouble::OneWay))]);
    assert_eq!(peer.report(Direct).reason, Some(Reason::DirectOneWay));
}

#[test]
fn a_path_for_small_packets_only_is_found_out() {
    let mut peer = Peer::talking();
    assert_eq!(peer.report(Direct).mtu, Some(1420));
    peer.answers[0] = Answers::Small;
    let took = peer.run_until(MINUTE, Peer::is_suspect);
    assert!(took < SECOND + MS * 300, "suspect after {took:?}");
    assert!(peer.route().is_hedged());
    peer.run(60.0);
    assert_eq!(switches(&mut peer), [(Direct, Gateway, Some(Trouble::SmallOnly))]);
    let direct = peer.report(Direct);
    assert_eq!((direct.usable, direct.reason, direct.mtu), (false, Some(Reason::DirectSmallOnly), Some(92)));
    peer.answers[0] = Answers::All;
    peer.run(30.0);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(peer.report(Direct).mtu, Some(1420));
}

#[test]
fn heavy_loss_is_no_clean_path() {
    for share in [250, 400, 600, 840] {
        let mut peer = Peer::talking();
        peer.answers[0] = Answers::Loses(share);
        peer.run_until(MINUTE, Peer::is_suspect);
        let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Gateway), false));
        assert!(took < SECOND * 20, "{share}: left after {took:?}");
        peer.run(600.0);
        assert_eq!(peer.by(), (Some(Gateway), false), "{share}");
        assert_eq!(switches(&mut peer).len(), 1, "{share}");
    }
}

#[test]
fn heavy_loss_is_noticed_as_soon_as_silence() {
    for seed in 0..50 {
        let mut peer = Peer::talking();
        peer.run(0.1 * f64::from(seed));
        peer.answers[0] = Answers::Loses(600);
        let took = peer.run_until(MINUTE, Peer::is_suspect);
        assert!(took < SECOND * 2, "suspect after {took:?}");
        peer.run_until(MINUTE, |peer| peer.by() == (Some(Gateway), false));
        let loss = peer.report(Direct).loss.unwrap();
        assert!((0.3..0.9).contains(&loss), "{loss}");
    }
}

#[test]
fn ordinary_loss_is_no_reason_for_anything() {
    let mut peer = Peer::talking();
    peer.answers = [Answers::Loses(10); 2];
    let mut hedged = 0;
    for _ in 0..36_000 {
        peer.run(0.1);
        hedged += u32::from(peer.route().is_hedged());
    }
    assert_eq!(switches(&mut peer), []);
    assert!(hedged < 360, "hedged for {hedged} tenths of a second in an hour");
    peer.answers[0] = Answers::None;
    peer.run(6.0);
    peer.answers[0] = Answers::Loses(20);
    let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Direct), false));
    assert!(took < SECOND * 30, "back after {took:?}");
}

#[test]
fn a_path_that_is_gone_is_left_at_once() {
    let mut peer = Peer::talking();
    peer.paths.path_away(Direct, Some(Reason::NoEndpoint), peer.now);
    assert_eq!(peer.by(), (Some(Gateway), false));
    assert_eq!(peer.report(Direct).reason, Some(Reason::NoEndpoint));
    assert_eq!(peer.report(Direct).next_probe, None);
    peer.away(Gateway);
    assert_eq!(peer.by(), (None, false));
    peer.up(Direct);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(switches(&mut peer), [(Direct, Gateway, Some(Trouble::Away(Some(Reason::NoEndpoint))))]);
}

#[test]
fn a_better_path_is_taken_again_when_it_was_clean_for_ten_seconds() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.run(20.0);
    peer.answers[0] = Answers::All;
    peer.run(8.0);
    assert_eq!(peer.by(), (Some(Gateway), false));
    let returns_in = peer.report(Direct).returns_in.unwrap();
    assert!((SECOND * 2..SECOND * 6).contains(&returns_in), "{returns_in:?}");
    peer.answers[0] = Answers::None;
    peer.run(5.0);
    assert_eq!((peer.by(), peer.report(Direct).returns_in), ((Some(Gateway), false), None), "ten seconds in a row");
    peer.answers[0] = Answers::All;
    let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Direct), false));
    assert!((SECOND * 10..SECOND * 15).contains(&took), "back after {took:?}");
    let back_and_forth = [(Direct, Gateway, Some(Trouble::Silent)), (Gateway, Direct, None)];
    assert_eq!(switches(&mut peer), back_and_forth);
}

#[test]
fn each_failure_makes_the_wait_longer_until_the_path_was_steady() {
    let mut peer = Peer::talking();
    let back = |peer: &mut Peer| {
        peer.answers[0] = Answers::None;
        peer.run(6.0);
        assert_eq!(peer.by(), (Some(Gateway), false));
        peer.answers[0] = Answers::All;
        peer.run_until(MINUTE, |peer| peer.by() == (Some(Direct), false)).as_secs()
    };
    let waits = [10..15, 15..20, 20..25, 20..25, 20..25];
    for wait in waits {
        let took = back(&mut peer);
        assert!(wait.contains(&took), "back after {took} s, not {wait:?}");
    }
    assert_eq!(peer.report(Direct).falls, 5);
    peer.run(305.0);
    assert_eq!(peer.report(Direct).falls, 0);
    let took = back(&mut peer);
    assert!((10..15).contains(&took), "back after {took} s");
}

#[test]
fn a_better_path_that_never_failed_is_taken_soon() {
    let mut peer = Peer::without_paths();
    peer.talks = true;
    peer.up(Gateway);
    peer.run(5.0);
    assert_eq!(peer.by(), (Some(Gateway), false));
    peer.up(Direct);
    peer.answers[0] = Answers::None;
    peer.run(30.0);
    assert_eq!(peer.by(), (Some(Gateway), false), "it has to answer");
    peer.answers[0] = Answers::All;
    let took = peer.run_until(MINUTE, |peer| peer.by() == (Some(Direct), false));
    assert!((SECOND * 2..SECOND * 7).contains(&took), "taken after {took:?}");
    peer.run(60.0);
    assert_eq!(switches(&mut peer), [(Gateway, Direct, None)]);
}

#[test]
fn while_nothing_answers_packets_go_by_all_and_nothing_switches() {
    let mut peer = Peer::talking();
    peer.answers = [Answers::None; 2];
    peer.run(2.0);
    for _ in 0..100 {
        peer.run(1.0);
        assert_eq!(peer.by(), (Some(Direct), true));
    }
    assert_eq!(switches(&mut peer), []);
    peer.answers[1] = Answers::All;
    peer.run(10.0);
    assert_eq!(peer.by(), (Some(Gateway), false));
}

#[test]
fn two_bad_paths_do_not_change_places() {
    let mut peer = Peer::talking();
    peer.answers = [Answers::Loses(600); 2];
    peer.run(2.0);
    let mut alone = 0;
    for _ in 0..3000 {
        peer.run(0.1);
        alone += u32::from(!peer.route().is_hedged());
    }
    assert!(switches(&mut peer).len() <= 2, "in five minutes");
    assert!(alone < 300, "by one path alone for {alone} tenths of a second");
}

#[test]
fn the_worse_path_dies_while_the_better_heals() {
    let mut peer = Peer::talking();
    peer.answers[0] = Answers::None;
    peer.run(20.0);
    peer.answers = [Answers::All, Answers::None];
    peer.run(1.5);
    assert_eq!(peer.by(), (Some(Gateway), true));
    peer.run(8.0);
    assert_eq!(peer.by(), (Some(Direct), false), "no reason to wait for ten clean seconds");
}

#[test]
fn a_peer_heard_by_another_path_only_is_answered_by_both() {
    let mut peer = Peer::new();
    peer.run(20.0);
    assert!(!peer.route().is_hedged());
    peer.paths.received(Gateway, peer.now);
    assert!(peer.route().is_hedged());
    peer.talks = true;
    peer.run(0.1);
    assert!(!peer.route().is_hedged(), "direct answered");
    peer.hears = Some(Gateway);
    peer.run(5.0);
    assert!(!peer.route().is_hedged(), "direct is proved all the time");
    assert_eq!(switches(&mut peer), []);
}

#[test]
fn the_only_path_is_kept_whatever_it_does() {
    let mut peer = Peer::without_paths();
    peer.up(Direct);
    peer.talks = true;
    peer.run(5.0);
    peer.sent.clear();
    peer.answers[0] = Answers::None;
    peer.run(60.0);
    assert_eq!(peer.by(), (Some(Direct), false));
    assert_eq!(peer.report(Direct).reason, Some(Reason::DirectUdpSilent));
    assert!(peer.times(Direct).len() <= 62, "nothing to choose, so it is asked seldom");
}

#[test]
fn full_size_follows_the_mtu() {
    let mut peer = Peer::talking();
    peer.paths.set_mtu(1280);
    peer.sent.clear();
    peer.run(1.0);
    assert!(peer.sent.iter().all(|sent| sent.bytes == 1252), "{:?}", peer.sent);
    peer.paths.set_mtu(0);
    peer.sent.clear();
    peer.run(1.0);
    assert!(peer.sent.iter().all(|sent| sent.bytes == 64), "{:?}", peer.sent);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut peer = Peer::talking();
    peer.paths.handle_timeout(Duration::ZERO);
    peer.paths.sent(Duration::ZERO);
    peer.paths.retry(Duration::ZERO);
    peer.run(5.0);
    assert_eq!(peer.by(), (Some(Direct), false));
}

#[test]
fn the_report_says_what_is_known() {
    let peer = Peer::talking();
    let report = peer.paths.report(peer.now);
    assert_eq!((report.primary, report.hedged, report.switches, report.suspect_for), (Some(Direct), false, 0, None));
    for kind in KINDS {
        let path = peer.report(kind);
        assert_eq!(path.kind, kind);
        assert_eq!((path.usable, path.trouble, path.reason, path.loss), (true, None, None, Some(0.0)));
        assert_eq!((path.rtt, path.mtu, path.falls), (Some(MS * 20), Some(1420), 0));
        assert!(path.proved < Some(SECOND * 6) && path.heard < Some(SECOND * 6));
        assert!(path.next_probe < Some(SECOND * 6));
    }
    assert!(peer.report(Direct).next_probe < Some(MS * 300));
    let unknown = Selector::new(1420, 1, START).report(START);
    for path in unknown.paths {
        assert_eq!((path.usable, path.rtt, path.loss, path.proved, path.mtu), (false, None, None, None, None));
        assert_eq!((path.trouble, path.reason, path.heard), (Some(Trouble::Away(None)), None, None));
    }
}
