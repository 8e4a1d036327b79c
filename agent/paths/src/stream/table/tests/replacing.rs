//! A stream takes another's place, or does not.

use super::*;

#[test]
fn a_new_stream_takes_over_when_the_peer_is_proved_on_it_and_not_before() {
    let (peer, mut lab) = (token(1), Lab::with_peers(1, 1, 1));
    let old = lab.connect(peer);
    lab.wait(AGE * 3 / 4 - SECOND);
    assert!(lab.dialing.is_empty(), "too early");
    lab.log();
    let new = lab.dial(AGE);
    assert!(lab.now <= AGE + SECOND, "too late");
    lab.opened(new);
    let place = place(1).unwrap();
    assert_eq!(lab.log(), [Action::Dial { peer, stream: new, place }, Action::Initiate { peer, stream: new }]);
    lab.proved(new, peer);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), error: None }]);
    // The other side goes over meanwhile.
    lab.wait(HANDOVER);
    assert_eq!(lab.log(), [Action::Finish(old)]);
    lab.wait(DRAIN);
    assert_eq!(lab.log(), [Action::Close(old, StreamError::Replaced)]);
}

#[test]
fn a_new_stream_that_is_not_proved_changes_nothing() {
    let (peer, mut lab) = (token(1), Lab::with_peers(2, 1, 1));
    let (old, new) = lab.redialed(peer);
    lab.wait(OVERLAP);
    let log = lab.log().into_iter().find(|action| *action != Action::Initiate { peer, stream: new });
    assert_eq!(log, Some(Action::Close(new, StreamError::Unproved)));
    assert_eq!(lab.routes[&peer], old);
    // It is tried again, and the old one's end makes no difference to that.
    lab.ended(old);
    assert_eq!(lab.log().last(), Some(&Action::Route { peer, stream: None, error: Some(StreamError::Closed) }));
    lab.connect(peer);
}

#[test]
fn an_old_stream_that_breaks_first_leaves_the_new_one() {
    let (peer, mut lab) = (token(1), Lab::with_peers(3, 1, 1));
    let (old, new) = lab.redialed(peer);
    lab.ended(old);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), error: None }]);
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
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(old), error: None }]);
    let again = lab.dial(LONGEST_WAIT);
    lab.opened(again);
    lab.answered(again, peer);
    assert_eq!(lab.routes[&peer], again);
    // Once its half is over it is none any more.
    lab.wait(HANDOVER);
    lab.log();
    lab.ended(again);
    assert_eq!(lab.log()[0], Action::Route { peer, stream: None, error: Some(StreamError::Closed) });
}

#[test]
fn the_side_that_is_called_goes_over_and_back() {
    let (peer, mut lab) = (token(1), Lab::with_peers(4, 0, 1));
    let first = lab.accepted();
    assert!(lab.log().is_empty());
    lab.proved(first, peer);
    assert_eq!(
        lab.log(),
        [Action::Route { peer, stream: Some(first), error: None }, Action::Initiate { peer, stream: first }]
    );
    let second = lab.accepted();
    lab.proved(second, peer);
    assert_eq!(lab.log(), [Action::Initiate { peer, stream: second }], "what came may have been caught elsewhere");
    lab.answered(second, peer);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(second), error: None }]);
    // The new one did not last, and the caller never came to like it.
    lab.ended(second);
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(first), error: None }]);
    // Many new ones: the last few stay, and only the newest for ever.
    let many: Vec<StreamId> = (0..9).map(|_| lab.accepted()).collect();
    for stream in &many {
        lab.answered(*stream, peer);
    }
    assert_eq!(lab.open.iter().copied().collect::<Vec<_>>(), many[8 - RETIRED..]);
    lab.wait(LINGER);
    assert_eq!(lab.open, BTreeSet::from([many[8]]));
}

/// A host that catches packets of a peer, and brings each on a stream of its own before it arrives where it was sent.
#[test]
fn packets_that_were_caught_elsewhere_take_no_streams_place() {
    let (peer, mut lab) = (token(1), Lab::with_peers(11, 0, 1));
    let own = lab.accepted();
    lab.proved(own, peer);
    lab.log();
    let caught: Vec<StreamId> = (0..=CLAIMS).map(|_| lab.accepted()).collect();
    for stream in &caught {
        lab.proved(*stream, peer);
        assert!(lab.log().contains(&Action::Initiate { peer, stream: *stream }), "it may be the peer");
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
    assert_eq!(lab.log(), [Action::Route { peer, stream: Some(new), error: None }]);
    lab.answered(new, peer);
    assert!(lab.log().is_empty() && lab.table.peers[&peer].current.unwrap().is_proved);
    lab.wait(OVERLAP);
    assert_eq!(lab.open, BTreeSet::from([new]));
}

#[test]
fn no_peer_takes_anothers_place() {
    let (peer, mut lab) = (token(1), Lab::with_peers(5, 1, 2));
    let own = lab.connect(peer);
    // The peer calls too, for a moment of disagreement: one stream is enough.
    let theirs = lab.accepted();
    lab.proved(theirs, peer);
    // A stranger's, or that of a former peer.
    let strangers = lab.accepted();
    lab.proved(strangers, token(99));
    assert_eq!(lab.open, BTreeSet::from([own]));
    // Dialed as one, proved by another.
    lab.table.redial(peer, lab.now + YOUNG);
    lab.now += YOUNG;
    let new = lab.dial(SECOND);
    lab.opened(new);
    lab.proved(new, token(2));
    assert_eq!((lab.open.clone(), lab.routes[&peer]), (BTreeSet::from([own]), own));
}
