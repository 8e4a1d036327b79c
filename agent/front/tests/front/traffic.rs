//! What passes through: large transfers, half-close, applications that are not there.

use mesh_front::{DialError, Dialer, Limits, Member};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    net::{TcpListener, UnixListener},
    time::timeout,
};

use crate::world::{Node, PATIENCE, echo, introduce, pair, tell, until};

/// A byte for each position that repeats at no power of two.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transfer_arrives_in_full_both_ways_with_the_end_at_its_end() {
    let [one, two] = pair().await;
    let stream = two.dialer().dial(one.token, None).await.unwrap();
    let (mut read, mut write) = split(stream);
    let sent = pattern(32 << 20);
    let copy = sent.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        // The other direction goes on.
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    timeout(PATIENCE, read.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == sent, "{} of {} bytes came back, or others", got.len(), sent.len());
    sending.await.unwrap();
    until("the place to be given back", || one.counts().open == 0).await;
}

#[tokio::test]
async fn each_direction_ends_for_itself() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = Node::before(1, application.local_addr().unwrap(), Limits::default()).await;
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    let (mut local, _) = timeout(PATIENCE, application.accept()).await.unwrap().unwrap();

    // The application says that it has said everything; the caller goes on.
    local.write_all(b"all of it").await.unwrap();
    local.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "all of it");
    stream.write_all(b"an answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, local.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "an answer");
}

/// A caller that vanishes in the middle has not sent everything, and the application must not take it for that.
#[tokio::test]
async fn what_is_cut_short_does_not_look_complete() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = Node::before(1, application.local_addr().unwrap(), Limits::default()).await;
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    let (mut local, _) = timeout(PATIENCE, application.accept()).await.unwrap().unwrap();
    stream.write_all(b"half of").await.unwrap();
    stream.flush().await.unwrap();
    let mut half = [0; 7];
    timeout(PATIENCE, local.read_exact(&mut half)).await.unwrap().unwrap();
    drop(stream);
    let end = timeout(PATIENCE, local.read_u8()).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    // And the other way round.
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    let (local, _) = timeout(PATIENCE, application.accept()).await.unwrap().unwrap();
    socket2::SockRef::from(&local).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(local);
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn an_application_that_is_not_there_is_noticed_and_missed_no_longer_than_it_is_away() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let one = Node::before(1, address, Limits::default()).await;
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err(), "nothing ended it");
    assert!(one.counts().is_target_down);
    assert_eq!(one.counts().target_failed, 1);
    let application = TcpListener::bind(address).await.unwrap();
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    let (mut local, _) = timeout(PATIENCE, application.accept()).await.unwrap().unwrap();
    local.write_all(b"here").await.unwrap();
    let mut word = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut word)).await.unwrap().unwrap();
    assert!(!one.counts().is_target_down);
}

#[tokio::test]
async fn an_application_may_be_at_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("front-{}.sock", std::process::id()));
    let application = UnixListener::bind(&path).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rule = format!("{free}=unix:{}", path.display()).parse().unwrap();
    let one = Node::with_rule(1, rule, Limits::default());
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    let (mut local, _) = timeout(PATIENCE, application.accept()).await.unwrap().unwrap();
    local.write_all(b"here").await.unwrap();
    let mut word = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut word)).await.unwrap().unwrap();
    assert_eq!(&word, b"here");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn what_cannot_be_dialed_says_why() {
    let [one, two] = pair().await;
    let without_front = Member { place: None, ..two.member().1 };
    tell(&[&one], &[one.member(), (two.token, without_front)].into());
    let error = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::NoPlace(_)) && error.to_string().contains("--front"), "{error}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let away = Member { place: Some(crate::world::place(closed)), ..two.member().1 };
    tell(&[&one], &[one.member(), (two.token, away)].into());
    let error = one.dialer().dial(two.token, None).await.unwrap_err();
    // The gateway is there, and no node behind the name.
    assert!(matches!(error, DialError::Refused(..)), "{error}");
    let no_gateway = Dialer::new(one.key.identity.clone(), one.members.subscribe(), Some(closed), Limits::default());
    let error = no_gateway.dial(two.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::Unreachable(..)), "{error}");
}

/// A node may have several fronts; its URL names one.
#[tokio::test]
async fn a_front_besides_that_of_the_url_is_reached_by_its_port() {
    let [one, two] = pair().await;
    let by_port = std::num::NonZeroU16::new(two.front.port());
    let elsewhere = Member { place: Some(crate::world::place(one.front)), ..two.member().1 };
    tell(&[&one], &[one.member(), (two.token, elsewhere)].into());
    echo(&mut one.dialer().dial(two.token, by_port).await.unwrap(), b"by port").await.unwrap();
    // The key is that of the token, whatever the port.
    let error = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::WrongKey(..)), "{error}");
}

#[tokio::test]
async fn one_member_takes_its_share_and_no_more() {
    let limits = Limits { connections: 3, per_member: 2, ..Limits::default() };
    let one = Node::start(1, limits).await;
    let (two, three) = (Node::start(2, Limits::default()).await, Node::start(3, Limits::default()).await);
    introduce(&[&one, &two, &three]);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = two.dialer().dial(one.token, None).await.unwrap();
        echo(&mut stream, b"mine").await.unwrap();
        held.push(stream);
    }
    let mut third = two.dialer().dial(one.token, None).await.unwrap();
    assert!(echo(&mut third, b"more").await.is_err());
    let mut other = three.dialer().dial(one.token, None).await.unwrap();
    echo(&mut other, b"mine").await.unwrap();
    assert_eq!(one.counts().too_many, 1);
    drop(held);
    until("the places to be given back", || one.counts().open == 1).await;
    echo(&mut two.dialer().dial(one.token, None).await.unwrap(), b"again").await.unwrap();
}
