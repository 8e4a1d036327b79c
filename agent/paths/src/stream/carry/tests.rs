//! One stream over a pipe, with a clock that runs ahead when nothing is left to do.

use std::{future::Future, sync::Mutex, time::Duration};

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::sleep,
};

use mesh_core::id::TokenId;
use mesh_tunnel::{Carrier, Proof};

use super::{
    super::{StreamEvent, StreamId},
    *,
};

const PIPE: usize = 16 << 10;

/// Keeps what comes by a stream, and takes every datagram for one of the peer's, if there is one.
#[derive(Default, Clone)]
struct Receiver {
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    proves: Option<TokenId>,
}

impl Receiver {
    fn proving() -> Self {
        Self { proves: Some(token()), ..Self::default() }
    }

    fn receive(&self, stream: &Stream, datagrams: &mut Datagrams<'_>) {
        let (buffer, ranges) = datagrams.all();
        for range in ranges {
            self.received.lock().unwrap().push(buffer[range.clone()].to_vec());
            if let Some(token) = self.proves {
                stream.prove(token, Proof::Data);
            }
        }
    }
}

fn send(stream: &Stream, datagram: &[u8]) -> bool {
    Carrier::send(stream, datagram, datagram.len())
}

/// Carries the stream over that pipe, in a task that ends with why the stream did.
fn spawn(stream: &Arc<Stream>, pipe: DuplexStream, receiver: &Receiver) -> JoinHandle<StreamError> {
    let (stream, receiver) = (Arc::clone(stream), receiver.clone());
    tokio::spawn(async move {
        carry(&stream, pipe, &Limits::default(), |datagrams| receiver.receive(&stream, datagrams)).await
    })
}

fn token() -> TokenId {
    TokenId::new(7).unwrap()
}

fn stream(is_dialed: bool) -> (Arc<Stream>, UnboundedReceiver<(StreamId, StreamEvent)>) {
    let (events, happened) = unbounded_channel();
    (Arc::new(Stream::new(StreamId(1), is_dialed, &Limits::default(), events)), happened)
}

/// An accepted stream with a pipe to it; the task ends with why the stream did, and after how long.
fn accepted(receiver: &Receiver) -> (DuplexStream, Arc<Stream>, impl Future<Output = (StreamError, Duration)> + use<>) {
    let (other, pipe) = duplex(PIPE);
    let (stream, _) = stream(false);
    let (begun, task) = (Instant::now(), spawn(&stream, pipe, receiver));
    (other, stream, async move { (task.await.unwrap(), begun.elapsed()) })
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_proves_no_peer_is_closed_whatever_comes_by_it() {
    let proof = Limits::default().proof;
    // Nothing.
    let (_other, _, task) = accepted(&Receiver::default());
    assert_eq!(task.await, (StreamError::Unproved, proof));

    // Keepalives, half of one at a time.
    let (mut other, _, task) = accepted(&Receiver::default());
    let drip = async {
        while other.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(700)).await;
        }
    };
    let (ended, ()) = tokio::join!(task, drip);
    let (error, after) = ended;
    assert_eq!(error, StreamError::Unproved);
    assert!(after >= proof && after < proof + Duration::from_secs(1), "{after:?}");

    // Datagrams that no peer sent, as fast as they go.
    let (mut other, stream, task) = accepted(&Receiver::default());
    let flood = async { while other.write_all(b"\0\x04spam\0\x03ham").await.is_ok() {} };
    let (ended, ()) = tokio::join!(task, flood);
    assert_eq!(ended, (StreamError::Unproved, Duration::ZERO), "at once, by their number");
    assert!(stream.carried().received <= UNPROVED_DATAGRAMS + PIPE as u64 / 5);

    // One datagram that promises much and never comes.
    let (mut other, _, task) = accepted(&Receiver::default());
    other.write_all(&[0xff; 1000]).await.unwrap();
    assert_eq!(task.await, (StreamError::Unproved, proof));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_proved_peer_may_be_quiet_but_not_dead() {
    let (mut other, stream, task) = accepted(&Receiver::proving());
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
    assert_eq!(task.await.0, StreamError::Silent(silence));
    assert!(begun.elapsed() >= silence && begun.elapsed() < silence + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn keepalives_hold_two_idle_ends_together() {
    let (pipe, other) = duplex(PIPE);
    let ends = [pipe, other].map(|pipe| {
        let (stream, _) = stream(true);
        let task = spawn(&stream, pipe, &Receiver::default());
        (stream, task)
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
async fn a_stream_that_takes_nothing_is_given_up() {
    let (_other, stream, task) = accepted(&Receiver::default());
    assert!(send(&stream, &[1; 60_000]));
    stream.prove(token(), Proof::Data);
    assert_eq!(task.await, (StreamError::Stalled(Limits::default().stall), Limits::default().stall));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_before_the_end_and_after_it_by_the_other_side() {
    let (pipe, other) = duplex(PIPE);
    let ends = [(pipe, true), (other, false)].map(|(pipe, is_dialed)| {
        let ((stream, _), receiver) = (stream(is_dialed), Receiver::proving());
        let task = spawn(&stream, pipe, &receiver);
        (stream, receiver, task)
    });
    let [(leaving, at_leaving, leaving_task), (staying, at_staying, staying_task)] = ends;
    for number in 0..200u8 {
        assert!(send(&leaving, &[number; 900]) && send(&staying, &[number; 700]));
    }
    leaving.finish();
    assert!(!send(&leaving, b"too late"));
    assert_eq!(staying_task.await.unwrap(), StreamError::Closed);
    assert_eq!(leaving_task.await.unwrap(), StreamError::Closed);
    for (receiver, length) in [(at_staying, 900), (at_leaving, 700)] {
        let expected: Vec<Vec<u8>> = (0..200u8).map(|number| vec![number; length]).collect();
        assert!(*receiver.received.lock().unwrap() == expected);
    }
    assert!(!send(&staying, b"too late") && leaving.carried().dropped == 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_right_hello_is_answered() {
    let (mut a, mut b) = duplex(PIPE);
    let (first, second) = tokio::join!(hello_first(&mut a), hello_second(&mut b));
    assert_eq!((first, second), (Ok(()), Ok(())));

    for wrong in [&b"GET / HT"[..], b"p2pmesh\x02", b"p2pmesh", b"", &[0; 8]] {
        let (mut a, mut b) = duplex(PIPE);
        a.write_all(wrong).await.unwrap();
        a.shutdown().await.unwrap();
        assert_eq!(hello_second(&mut b).await, Err(StreamError::NoHello), "{wrong:?}");
        drop(b);
        let mut said = Vec::new();
        a.read_to_end(&mut said).await.unwrap();
        assert!(said.is_empty(), "nothing is said to what is no agent");
    }
}

#[test]
fn a_stream_is_proved_once_and_answered_once_and_by_the_same_peer() {
    let (stream, mut happened) = stream(false);
    assert_eq!(stream.peer(), None);
    let mut reported = |peer: TokenId, proof: Proof| {
        stream.prove(peer, proof);
        match happened.try_recv() {
            Ok((StreamId(1), StreamEvent::Proved { peer, proof })) => Some((peer, proof)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    };
    let other = TokenId::new(8).unwrap();
    assert_eq!(reported(token(), Proof::Data), Some((token(), Proof::Data)));
    assert_eq!([(other, Proof::Data), (other, Proof::RoundTrip)].map(|(peer, proof)| reported(peer, proof)), [None; 2]);
    assert_eq!(reported(token(), Proof::RoundTrip), Some((token(), Proof::RoundTrip)));
    assert_eq!([Proof::RoundTrip, Proof::Data].map(|proof| reported(token(), proof)), [None; 2]);
    assert_eq!(stream.peer(), Some(token()));
}

#[test]
fn an_answer_is_proof_enough() {
    let (stream, mut happened) = stream(false);
    for proof in [Proof::RoundTrip, Proof::RoundTrip, Proof::Data] {
        stream.prove(token(), proof);
    }
    assert!(
        matches!(happened.try_recv(), Ok((_, StreamEvent::Proved { peer, proof: Proof::RoundTrip })) if peer == token())
    );
    assert!(happened.try_recv().is_err(), "reported once");
}
