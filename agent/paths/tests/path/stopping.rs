//! The rules for a peer whose agent stops, and is started again.

use std::time::Duration;

use mesh_paths::path::{KINDS, Message, MessageKind, PathKind, ProbeError, SMALL};

use crate::peer::{Answers, Peer};

use PathKind::{Direct, Gateway};

/// A message that this run of the peer's agent sends by that path.
fn of(run: u32, number: u32, kind: MessageKind, path: PathKind) -> Message {
    Message { kind, path, sequence: u64::from(run) << 32 | u64::from(number), hearing: [None; 2] }
}

fn says(peer: &mut Peer, message: Message) -> Result<(), ProbeError> {
    peer.say(message.path, &message, SMALL)
}

fn is_stopped(peer: &Peer) -> bool {
    peer.paths.report(peer.now).stopped_for.is_some()
}

#[test]
fn a_peer_has_stopped_from_its_last_word_until_it_is_started_again() {
    use MessageKind::{Request, Stopping};
    let mut peer = Peer::talking();
    says(&mut peer, of(1, 1, Request, Direct)).unwrap();
    assert!(!is_stopped(&peer));
    says(&mut peer, of(1, 4, Stopping, Direct)).unwrap();
    peer.run(3.0);
    assert_eq!(peer.paths.report(peer.now).stopped_for, Some(Duration::from_secs(3)));
    assert_eq!(says(&mut peer, of(1, 4, Stopping, Gateway)), Err(ProbeError::OtherRun), "said twice");
    // Sent before, by a slower path.
    says(&mut peer, of(1, 3, Request, Gateway)).unwrap();
    assert!(is_stopped(&peer));
    says(&mut peer, of(2, 1, Request, Direct)).unwrap();
    assert!(!is_stopped(&peer));
    // Held back on the way until the peer was there again.
    assert_eq!(says(&mut peer, of(1, 4, Stopping, Gateway)), Err(ProbeError::OtherRun));
    assert!(!is_stopped(&peer));
}

#[test]
fn a_last_word_by_another_path_than_it_says_is_none() {
    let mut peer = Peer::talking();
    let message = of(1, 1, MessageKind::Stopping, Gateway);
    assert_eq!(peer.say(Direct, &message, SMALL), Err(ProbeError::OtherPath));
    assert!(!is_stopped(&peer));
}

#[test]
fn the_stop_messages_go_by_every_path_that_there_is() {
    let mut peer = Peer::talking();
    let said: Vec<_> =
        peer.paths.stop_messages(peer.now).iter().map(|it| (it.path, Message::parse(&it.payload))).collect();
    assert_eq!(said.iter().map(|(path, _)| *path).collect::<Vec<_>>(), KINDS);
    let run = peer.sent.last().unwrap().sequence >> 32;
    for (path, message) in said {
        let message = message.unwrap();
        assert_eq!((message.kind, message.path), (MessageKind::Stopping, path));
        assert_eq!(message.sequence >> 32, run, "all that one run says has one number");
    }
    peer.away(Direct);
    assert_eq!(peer.paths.stop_messages(peer.now).iter().map(|it| it.path).collect::<Vec<_>>(), [Gateway]);
}

#[test]
fn what_is_lost_while_a_peer_is_started_again_is_no_loss_of_its_paths() {
    let mut peer = Peer::talking();
    says(&mut peer, of(1, 1, MessageKind::Request, Direct)).unwrap();
    peer.answers = [Answers::None; 2];
    peer.run(2.0);
    assert!(peer.report(Direct).loss > Some(0.0));
    peer.answers = [Answers::All; 2];
    says(&mut peer, of(2, 1, MessageKind::Request, Direct)).unwrap();
    peer.run(2.0);
    assert_eq!((peer.report(Direct).loss, peer.report(Direct).trouble), (Some(0.0), None));
}
