//! A gateway that is away, and what is said of the peers behind it.

use super::*;

/// This node, which others dial at the gateway of peers with an odd number.
const OWN: u32 = 101;

fn refused() -> StreamError {
    StreamError::Unreachable("connection refused".to_owned())
}

impl Lab {
    fn away(&mut self, stream: StreamId) {
        self.away_by(stream, refused());
    }

    fn away_by(&mut self, stream: StreamId, error: StreamError) {
        let peer = self.dialing.remove(&stream).unwrap();
        self.table.dial_failed(peer, stream, error, false, self.now);
        self.act();
    }

    fn broken(&mut self, stream: StreamId) {
        assert!(self.open.remove(&stream));
        self.table.ended(stream, StreamError::Broken("reset".to_owned()), self.now);
        self.act();
    }

    fn reason(&self, peer: u32) -> Option<StreamError> {
        self.table.report(self.now).remove(&token(peer))?.error
    }
}

#[test]
fn one_dial_says_of_all_peers_that_their_gateway_is_away() {
    let mut lab = Lab::with_peers(1, 6, 6);
    let mut streams = BTreeMap::new();
    lab.wait(SECOND);
    for (stream, peer) in lab.dialing.clone() {
        lab.opened(stream);
        lab.proved(stream, peer);
        streams.insert(peer, stream);
    }
    lab.wait(LASTED);
    for peer in [1, 3, 5] {
        lab.broken(streams[&token(peer)]);
    }
    assert_eq!(lab.dialing.len(), 0, "after a moment");
    while lab.dialing.is_empty() {
        lab.wait(Duration::from_millis(1));
    }
    let dial = *lab.dialing.first_key_value().unwrap().0;
    lab.log();
    lab.away(dial);
    for peer in [1, 3, 5] {
        assert_eq!((lab.reason(peer), lab.reasons.get(&token(peer))), (Some(refused()), Some(&refused())), "{peer}");
    }
    assert_eq!((lab.reason(2), lab.reasons.get(&token(2))), (None, None), "another gateway");
    // Said once, however often it is found.
    lab.log();
    for n in 0..5 {
        let dial = lab.dial(2 * SECOND);
        lab.away_by(dial, StreamError::Unreachable(format!("attempt {n}: connection refused")));
    }
    assert!(lab.log().iter().all(|action| !matches!(action, Action::Away { .. })));
    // It is back, and a peer that is reached has no reason any more.
    let dial = lab.dial(2 * SECOND);
    let peer = lab.dialing[&dial];
    lab.opened(dial);
    lab.proved(dial, peer);
    assert_eq!(lab.reason(peer.get()), None);
}

#[test]
fn a_stream_that_breaks_at_a_gateway_that_is_away_says_so() {
    let mut lab = Lab::with_peers(2, 3, 3);
    lab.wait(SECOND);
    let dials = lab.dialing.clone();
    let stream = *dials.iter().find(|(_, peer)| **peer == token(1)).unwrap().0;
    let other = *dials.iter().find(|(_, peer)| **peer == token(3)).unwrap().0;
    lab.opened(stream);
    lab.proved(stream, token(1));
    lab.away(other);
    assert_eq!(lab.table.report(lab.now)[&token(1)].gateway, Some(refused()), "its stream is still open");
    lab.broken(stream);
    assert_eq!(lab.reason(1), Some(refused()));
    assert!(lab.log().contains(&Action::Route { peer: token(1), stream: None, error: Some(refused()) }));
}

#[test]
fn every_dial_that_fails_says_why() {
    let mut lab = Lab::with_peers(3, 1, 1);
    let dial = lab.dial(SECOND);
    lab.failed(dial, true);
    assert_eq!(lab.reasons[&token(1)], StreamError::Refused);
    let dial = lab.dial(SECOND);
    lab.away(dial);
    assert_eq!(lab.reasons[&token(1)], refused());
    let dial = lab.dial(2 * SECOND);
    lab.failed(dial, true);
    assert_eq!((lab.reasons[&token(1)].clone(), lab.reason(1)), (StreamError::Refused, Some(StreamError::Refused)));
}

#[test]
fn a_node_that_all_others_dial_finds_out_by_dialing_itself() {
    let mut lab = Lab::new(4);
    lab.table.set_own(token(OWN), place(OWN));
    lab.table.set_peers((1..=3).map(|n| (token(n), None)).collect(), lab.now);
    lab.act();
    // Before there is a stream; less and less often, down to once in 8 s to 16 s, while the gateway is found to be there.
    let mut dials = 0;
    while lab.now < 60 * SECOND {
        lab.wait(SECOND / 10);
        if let Some((stream, peer)) = lab.dialing.clone().first_key_value() {
            assert_eq!(*peer, token(OWN));
            dials += 1;
            lab.opened(*stream);
            assert!(lab.open.is_empty(), "it is of no other use");
        }
    }
    assert!((5..=14).contains(&dials), "{dials} dials in a minute");
    // While one peer is there, the gateway is.
    let stream = lab.accepted();
    lab.answered(stream, token(2));
    lab.log();
    lab.wait(60 * SECOND);
    assert!(lab.log().is_empty());
    lab.broken(stream);
    assert_eq!(lab.reason(2), Some(StreamError::Broken("reset".to_owned())));
    let dial = lab.dial(SECOND);
    lab.away(dial);
    for peer in 1..=3 {
        assert_eq!((lab.reason(peer), &lab.reasons[&token(peer)]), (Some(refused()), &refused()));
        let domain = lab.table.report(lab.now)[&token(peer)].domain.clone();
        assert_eq!(domain, place(OWN).map(|place| place.domain), "this node's own gateway is at fault");
    }
    let back = lab.dial(2 * SECOND);
    lab.opened(back);
    for peer in 1..=3 {
        let expected = (Some(StreamError::NotDialed), &StreamError::NotDialed);
        assert_eq!((lab.reason(peer), &lab.reasons[&token(peer)]), expected);
    }
}

#[test]
fn a_node_that_dials_others_does_not_dial_itself() {
    let mut lab = Lab::with_peers(5, 1, 3);
    lab.table.set_own(token(OWN), place(OWN));
    for _ in 0..20 {
        let dial = lab.dial(2 * SECOND);
        assert_eq!(lab.dialing[&dial], token(1));
        lab.away(dial);
    }
    assert_eq!(lab.reason(2), Some(refused()), "it would come by the same gateway");
    // Nor one that has no place any more.
    let mut lab = Lab::with_peers(6, 0, 3);
    lab.table.set_own(token(OWN), place(OWN));
    lab.table.handle_timeout(lab.now);
    lab.dial(SECOND);
    lab.table.set_own(token(OWN), None);
    lab.act();
    assert!(lab.dialing.is_empty());
    lab.wait(60 * SECOND);
    assert!(lab.dialing.is_empty());
}
