//! Who is a member changes while connections are open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_front::{CutOff, DialError, Limits, Member, Members, Trust};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, timeout},
};

use crate::world::{Key, Node, PATIENCE, echo, introduce, pair, place, tell, until};

/// What a revoked node's application sees at a connection that it does not use at the time.
async fn ends(stream: &mut mesh_front::MemberStream) {
    let read = timeout(PATIENCE, stream.read_u8()).await.expect("the connection goes on");
    assert!(read.is_err(), "there is nothing to read");
}

#[tokio::test]
async fn members_talk_in_both_directions_whatever_their_certificates_say() {
    let [one, two] = pair().await;
    let mut there = one.dialer().dial(two.token, None).await.unwrap();
    let mut back = two.dialer().dial(one.token, None).await.unwrap();
    assert_eq!((there.token(), back.token()), (two.token, one.token));
    for _ in 0..3 {
        echo(&mut there, b"there").await.unwrap();
        echo(&mut back, b"back").await.unwrap();
    }
    assert_eq!((one.counts().open, two.counts().open), (1, 1));
    drop((there, back));
    until("the places to be given back", || one.counts().open + two.counts().open == 0).await;
}

#[tokio::test]
async fn a_revoked_member_loses_its_connections_in_both_directions_and_gets_none() {
    let [one, two] = pair().await;
    let mut from_revoked = two.dialer().dial(one.token, None).await.unwrap();
    let mut to_revoked = one.dialer().dial(two.token, None).await.unwrap();
    echo(&mut from_revoked, b"a member").await.unwrap();
    echo(&mut to_revoked, b"a member").await.unwrap();

    // The revoked node goes on with what it believed, and does whatever it likes.
    tell(&[&one], &BTreeMap::from([one.member()]));
    ends(&mut from_revoked).await;
    ends(&mut to_revoked).await;
    until("both ends to be closed", || one.counts().open + two.counts().open == 0).await;
    assert_eq!(one.counts().cut_off, 1);

    let refused = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(refused, DialError::NotAllowed(token, CutOff::NoMember) if token == two.token), "{refused}");
    let served = one.served();
    let mut again = two.dialer().dial(one.token, None).await.unwrap();
    let error = echo(&mut again, b"again").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    until("the refusal to be counted", || one.counts().not_members == 1).await;
    assert_eq!(one.served(), served, "the application of a member was reached");
}

/// Nothing is read or written on these at the time.
#[tokio::test]
async fn a_connection_that_is_stuck_is_cut_off_too() {
    // Its application takes nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = Node::before(1, silent.local_addr().unwrap(), Limits::default()).await;
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut stuck = two.dialer().dial(one.token, None).await.unwrap();
    let (mut held, _) = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    let filled = timeout(Duration::from_millis(500), async {
        loop {
            tokio::io::AsyncWriteExt::write_all(&mut stuck, &[0; 1 << 16]).await.unwrap();
        }
    });
    assert!(filled.await.is_err(), "it never fills");
    tell(&[&one], &BTreeMap::from([one.member()]));
    until("the place to be given back", || one.counts().open == 0).await;
    ends(&mut stuck).await;
    // The application is told that this is no end that was meant.
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, held.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_member_with_another_key_starts_afresh() {
    let [one, two] = pair().await;
    let mut before = two.dialer().dial(one.token, None).await.unwrap();
    let mut towards = one.dialer().dial(two.token, None).await.unwrap();
    echo(&mut before, b"old").await.unwrap();
    echo(&mut towards, b"old").await.unwrap();
    let new = Key::new();
    let changed = Member { key: new.spki(), place: Some(place(two.front)) };
    tell(&[&one, &two], &BTreeMap::from([one.member(), (two.token, changed)]));
    ends(&mut before).await;
    ends(&mut towards).await;
    // The old key is that of no member; its front still shows it.
    let mut old = two.dialer().dial(one.token, None).await.unwrap();
    assert!(echo(&mut old, b"old").await.is_err());
    let refused = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(refused, DialError::WrongKey(_, token) if token == two.token), "{refused}");
    let mut with_new = two.dialer_as(&new).dial(one.token, None).await.unwrap();
    echo(&mut with_new, b"new").await.unwrap();
}

#[tokio::test]
async fn what_changes_for_others_changes_nothing_here() {
    let [one, two] = pair().await;
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    for _ in 0..20 {
        let third = Node::start(3, Limits::default()).await;
        introduce(&[&one, &two, &third]);
        echo(&mut stream, b"still here").await.unwrap();
        introduce(&[&one, &two]);
    }
    // A member that moves keeps its connections.
    let mut moved = two.member();
    moved.1.place = None;
    tell(&[&one, &two], &BTreeMap::from([one.member(), moved]));
    echo(&mut stream, b"still here").await.unwrap();
    assert_eq!(one.counts().accepted, 1);
}

#[tokio::test]
async fn when_the_view_expires_all_are_cut_off_and_none_is_let_in() {
    let [one, two] = pair().await;
    let mut from = two.dialer().dial(one.token, None).await.unwrap();
    let mut to = one.dialer().dial(two.token, None).await.unwrap();
    echo(&mut from, b"a member").await.unwrap();
    echo(&mut to, b"a member").await.unwrap();
    // No news comes any more: the time alone ends it.
    let soon = Trust::Until(Instant::now() + Duration::from_millis(50));
    one.members.send_replace(Arc::new(Members::new(Some(one.token), [one.member(), two.member()], soon)));
    ends(&mut from).await;
    ends(&mut to).await;
    let refused = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(refused, DialError::NotAllowed(_, CutOff::Expired)), "{refused}");
    let mut late = two.dialer().dial(one.token, None).await.unwrap();
    assert!(echo(&mut late, b"late").await.is_err());
    // And news brings it back.
    introduce(&[&one, &two]);
    echo(&mut two.dialer().dial(one.token, None).await.unwrap(), b"back").await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_no_member_itself_talks_to_no_member() {
    let [one, two] = pair().await;
    let mut open = two.dialer().dial(one.token, None).await.unwrap();
    echo(&mut open, b"a member").await.unwrap();
    tell(&[&one], &BTreeMap::from([two.member()]));
    ends(&mut open).await;
    let refused = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(refused, DialError::NotAllowed(_, CutOff::OwnLeft)), "{refused}");
    let mut late = two.dialer().dial(one.token, None).await.unwrap();
    assert!(echo(&mut late, b"late").await.is_err());
}

#[tokio::test]
async fn before_the_first_read_none_is_let_in() {
    let one = Node::start(1, Limits::default()).await;
    let two = Node::start(2, Limits::default()).await;
    tell(&[&two], &BTreeMap::from([one.member(), two.member()]));
    let mut early = two.dialer().dial(one.token, None).await.unwrap();
    assert!(echo(&mut early, b"early").await.is_err());
    assert_eq!(one.served(), 0);
}
