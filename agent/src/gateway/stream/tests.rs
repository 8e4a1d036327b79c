//! One stream over a pipe, with a clock that runs ahead when nothing is left to do.

use std::{sync::Mutex, time::Duration};

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::sleep,
};

use super::{super::Datagrams, *};

const PIPE: usize = 16 << 10;

/// Keeps what it gets, and takes the sender of anything that begins with its token for proved.
#[derive(Default)]
struct Ear {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    proves: Option<TokenId>,
}

struct Hears {
    stream: Arc<Stream>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    proves: Option<TokenId>,
}

impl Inbound for Hears {
    fn receive(&mut self, datagrams: &mut Datagrams<'_>) {
        let (buffer, ranges) = datagrams.all();
        for range in ranges {
            self.heard.lock().unwrap().push(buffer[range.clone()].to_vec());
            if let Some(token) = self.proves {
                self.stream.prove(token, Proof::Data);
            }
        }
    }
}

impl Device for Ear {
    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn Inbound> {
        Box::new(Hears { stream: Arc::clone(stream), heard: Arc::clone(&self.heard), proves: self.proves })
    }

    fn greet(&self, _: TokenId, _: &Arc<Stream>) {}

    fn route(&self, _: TokenId, _: Option<&Arc<Stream>>, _: Option<&Trouble>) {}
}

fn token() -> TokenId {
    TokenId::new(7).unwrap()
}

/// As usual, but for how old what waits may be: that is by the real clock, which goes on while the tests' stands.
fn limits() -> Limits {
    Limits { queue_age: Duration::from_secs(3600), ..Limits::default() }
}

fn stream(dialed: Option<TokenId>) -> (Arc<Stream>, UnboundedReceiver<Event>) {
    let (events, happened) = unbounded_channel();
    (Arc::new(Stream::new(StreamId(1), dialed, &limits(), events)), happened)
}

/// An accepted stream with a pipe to it; the task ends with why the stream did, and after how long.
fn accepted(ear: Ear) -> (DuplexStream, Arc<Stream>, JoinHandle<(Trouble, Duration)>) {
    let (other, pipe) = duplex(PIPE);
    let (stream, _) = stream(None);
    let held = Arc::clone(&stream);
    let task = tokio::spawn(async move {
        let begun = Instant::now();
        let trouble = carry(&held, pipe, &Limits::default(), &ear).await;
        (trouble, begun.elapsed())
    });
    (other, stream, task)
}

#[tokio::test(start_paused = true)]
async fn who_proves_nothing_is_closed_whatever_he_sends_or_does_not() {
    let proof = Limits::default().proof;
    // Nothing.
    let (_other, _, task) = accepted(Ear::default());
    assert_eq!(task.await.unwrap(), (Trouble::Unproved, proof));

    // Keepalives, half of one at a time.
    let (mut other, _, task) = accepted(Ear::default());
    let drip = async {
        while other.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(700)).await;
        }
    };
    let (ended, ()) = tokio::join!(task, drip);
    let (trouble, after) = ended.unwrap();
    assert_eq!(trouble, Trouble::Unproved);
    assert!(after >= proof && after < proof + Duration::from_secs(1), "{after:?}");

    // Datagrams that are nobody's, as fast as they go.
    let (mut other, stream, task) = accepted(Ear::default());
    let flood = async { while other.write_all(b"\0\x04spam\0\x03ham").await.is_ok() {} };
    let (ended, ()) = tokio::join!(task, flood);
    assert_eq!(ended.unwrap(), (Trouble::Unproved, Duration::ZERO), "at once, by their number");
    assert!(stream.carried().received <= UNPROVED_DATAGRAMS + PIPE as u64 / 5);

    // One datagram that promises much and never comes.
    let (mut other, _, task) = accepted(Ear::default());
    other.write_all(&[0xff; 1000]).await.unwrap();
    assert_eq!(task.await.unwrap(), (Trouble::Unproved, proof));
}

#[tokio::test(start_paused = true)]
async fn who_proved_himself_may_be_quiet_but_not_dead() {
    let (mut other, stream, task) = accepted(Ear { proves: Some(token()), ..Ear::default() });
    for datagrams in 0..2 * UNPROVED_DATAGRAMS {
        other.write_all(b"\0\x02hi").await.unwrap();
        if datagrams == 0 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(stream.peer(), Some(token()));
        }
    }
    sleep(Duration::from_secs(60)).await;
    other.write_all(&KEEPALIVE).await.unwrap();
    let begun = Instant::now();
    let silence = Limits::default().silence;
    assert_eq!(task.await.unwrap().0, Trouble::Silent(silence));
    assert!(begun.elapsed() >= silence && begun.elapsed() < silence + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn keepalives_hold_two_idle_ends_together() {
    let (pipe, other) = duplex(PIPE);
    let ends = [(pipe, Some(token())), (other, Some(token()))].map(|(pipe, dialed)| {
        let (stream, _) = stream(dialed);
        let held = Arc::clone(&stream);
        (stream, tokio::spawn(async move { carry(&held, pipe, &Limits::default(), &Ear::default()).await }))
    });
    sleep(Duration::from_secs(4 * 3600)).await;
    for (stream, task) in &ends {
        assert!(!task.is_finished());
        let carried = stream.carried();
        let expected = 4 * 3600 / Limits::default().keepalive.as_secs() * 2;
        assert!(carried.sent_bytes.abs_diff(expected) <= 2, "one in each interval: {carried:?}");
        assert_eq!(carried.received, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_given_up() {
    let (_other, stream, task) = accepted(Ear::default());
    assert!(stream.send(&vec![1; 60_000]));
    stream.prove(token(), Proof::Data);
    assert_eq!(task.await.unwrap(), (Trouble::Stalled(Limits::default().stall), Limits::default().stall));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_before_the_end_and_after_it_by_the_other_side() {
    let (pipe, other) = duplex(PIPE);
    let ends = [(pipe, Some(token())), (other, None)].map(|(pipe, dialed)| {
        let ((stream, _), ear) = (stream(dialed), Arc::new(Ear { proves: Some(token()), ..Ear::default() }));
        let (held, hears) = (Arc::clone(&stream), Arc::clone(&ear));
        (stream, ear, tokio::spawn(async move { carry(&held, pipe, &Limits::default(), &*hears).await }))
    });
    let [(leaving, leaving_ear, leaving_task), (staying, staying_ear, staying_task)] = ends;
    for number in 0..200u8 {
        assert!(leaving.send(&[number; 900]) && staying.send(&[number; 700]));
    }
    leaving.finish();
    assert!(!leaving.send(b"too late"));
    assert_eq!(staying_task.await.unwrap(), Trouble::Closed);
    assert_eq!(leaving_task.await.unwrap(), Trouble::Closed);
    for (ear, length) in [(staying_ear, 900), (leaving_ear, 700)] {
        let expected: Vec<Vec<u8>> = (0..200u8).map(|number| vec![number; length]).collect();
        assert!(*ear.heard.lock().unwrap() == expected);
    }
    assert!(!staying.send(b"too late") && leaving.carried().dropped == 0);
}

#[tokio::test]
async fn a_connection_is_not_paced_and_else_left_as_the_machine_has_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async || TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let choose = |tcp: &TcpStream, name: &str| socket2::SockRef::from(tcp).set_tcp_congestion(name.as_bytes());
    // The list is for those who are not root, and the kernel may load another when it is asked for.
    let has_unpaced = choose(&connect().await, "cubic").is_ok();
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
    assert!(!known.trim().is_empty());
    for name in known.split_whitespace() {
        let tcp = connect().await;
        choose(&tcp, name).unwrap();
        let prepared = prepare(tcp, &Limits::default()).unwrap();
        let now = socket2::SockRef::from(prepared.get_ref()).tcp_congestion().unwrap();
        let expected = if name.starts_with("bbr") && has_unpaced { "cubic" } else { name };
        assert_eq!(String::from_utf8_lossy(&now).trim_end_matches('\0'), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_right_hello_is_answered() {
    let (mut a, mut b) = duplex(PIPE);
    let (first, second) = tokio::join!(greet_first(&mut a), greet_second(&mut b));
    assert_eq!((first, second), (Ok(()), Ok(())));

    for wrong in [&b"GET / HT"[..], b"p2pmesh\x02", b"p2pmesh", b"", &[0; 8]] {
        let (mut a, mut b) = duplex(PIPE);
        a.write_all(wrong).await.unwrap();
        a.shutdown().await.unwrap();
        assert_eq!(greet_second(&mut b).await, Err(Trouble::NoHello), "{wrong:?}");
        drop(b);
        let mut said = Vec::new();
        a.read_to_end(&mut said).await.unwrap();
        assert!(said.is_empty(), "nothing is said to strangers");
    }
}

#[test]
fn a_stream_is_proved_once_and_answered_once_and_by_the_same_peer() {
    let (stream, mut happened) = stream(None);
    assert_eq!(stream.peer(), None);
    let mut told = |peer: TokenId, proof: Proof| {
        stream.prove(peer, proof);
        match happened.try_recv() {
            Ok(Event::Proved(StreamId(1), peer, proof)) => Some((peer, proof)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    };
    let other = TokenId::new(8).unwrap();
    assert_eq!(told(token(), Proof::Data), Some((token(), Proof::Data)));
    assert_eq!([(other, Proof::Data), (other, Proof::RoundTrip)].map(|(peer, proof)| told(peer, proof)), [None; 2]);
    assert_eq!(told(token(), Proof::RoundTrip), Some((token(), Proof::RoundTrip)));
    assert_eq!([Proof::RoundTrip, Proof::Data].map(|proof| told(token(), proof)), [None; 2]);
    assert_eq!(stream.peer(), Some(token()));
}

#[test]
fn an_answer_is_proof_enough() {
    let (stream, mut happened) = stream(None);
    for proof in [Proof::RoundTrip, Proof::RoundTrip, Proof::Data] {
        stream.prove(token(), proof);
    }
    assert!(matches!(happened.try_recv(), Ok(Event::Proved(_, peer, Proof::RoundTrip)) if peer == token()));
    assert!(happened.try_recv().is_err(), "told once");
}
