//! Connections of what is no peer.

use std::{sync::Arc, time::Duration};

use mesh_core::status::Reason;
use mesh_paths::stream::{Limits, tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::{Instant, sleep},
};
use tokio_rustls::TlsConnector;

use crate::{
    device::{Twin, key},
    world::{SECOND, World, talk, until, within},
};

async fn end(stream: &mut DuplexStream) {
    // An alert may come first.
    drop(within("the end", stream.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_or_something_else_is_closed() {
    let world = World::new();
    let [a, _b] = world.nodes::<2>(Limits::default());
    let (begun, hello) = (Instant::now(), Limits::default().hello);
    let [mut silent, mut web, mut slow] = [(); 3].map(|()| world.gateway.connect(1));
    web.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    end(&mut web).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
    // The first record of a handshake, a byte at a time, never whole.
    within("the end of the slow one", async {
        for byte in [0x16u8, 3, 1, 0x3f, 0xff].into_iter().chain(std::iter::repeat(0)) {
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(SECOND / 20).await;
        }
    })
    .await;
    end(&mut silent).await;
    assert!(begun.elapsed() < hello + SECOND, "{:?}", begun.elapsed());
    until("room", || a.streams() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_proxy_header_is_reported_until_a_node_is_understood() {
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits::default());
    talk(&a, &b).await;
    let mut headed = world.gateway.connect(2);
    headed.write_all(b"PROXY TCP4 203.0.113.1 203.0.113.2 54321 443\r\n").await.unwrap();
    end(&mut headed).await;
    let header = || b.reported.lock().unwrap().proxy_header.clone();
    until("the report", || header().is_some_and(|(_, words)| words.contains("header (version 1)"))).await;
    talk(&a, &b).await;
    world.gateway.kill();
    world.gateway.restart();
    until("a dial that is understood", || header().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_says_nothing_keeps_no_peer_out() {
    let world = World::new();
    // The crowd would stay for a long time if it were let.
    let b = world.node(2, Limits { hello: SECOND * 600, ..Limits::default() });
    b.set_peers(&[1, 2]);
    let mut crowd: Vec<DuplexStream> = (0..200).map(|_| world.gateway.connect(2)).collect();
    let a = world.node(1, Limits::default());
    a.set_peers(&[1, 2]);
    talk(&a, &b).await;
    until("the report", || (1..=65).contains(&b.streams())).await;
    // The first ones had to go.
    for stream in &mut crowd[..100] {
        end(stream).await;
    }
    talk(&a, &b).await;
}

/// A node that is no peer brings a packet of the peer's by a stream of its own, and can answer nothing.
#[tokio::test(start_paused = true)]
async fn a_packet_caught_elsewhere_takes_no_streams_place() {
    let world = World::new();
    let [a, b] = world.nodes::<2>(Limits::default());
    talk(&a, &b).await;
    let before = b.twin.peer(a.key(), |peer| peer.streams.len());
    let (_, nothing) = tokio::sync::mpsc::unbounded_channel();
    let thief = world.node_with(1, Limits::default(), Twin::new(a.key(), false), nothing);
    thief.set_peers(&[1, 2]);
    // It is asked to answer, which shows that its packet was taken for the peer's.
    until("its stream", || thief.twin.is_reached(b.key()) && b.streams() == 2).await;
    talk(&a, &b).await;
    // A stream on which no answer comes is closed.
    until("its end", || thief.twin.peer(b.key(), |peer| peer.streams.contains(&false))).await;
    talk(&a, &b).await;
    assert_eq!(b.twin.peer(a.key(), |peer| peer.streams.len()), before, "b stays with the stream it had");
}

/// Behind the gateway there is something else, or something that says nothing.
#[tokio::test(start_paused = true)]
async fn what_is_no_agent_is_reported_as_that() {
    let world = World::new();
    let mut behind = world.gateway.register(2);
    let a = world.node(1, Limits::default());
    a.set_peers(&[1, 2]);
    let mut held = Vec::new();
    let words = || a.gateway(2).and_then(|gateway| gateway.words).unwrap_or_default();
    let reason = || a.gateway(2).and_then(|gateway| gateway.reason);
    let mut web = within("a dial", behind.recv()).await.unwrap();
    web.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    until("no TLS", || reason() == Some(Reason::GatewayTls) && words().contains("no TLS")).await;
    held.push(within("another dial", behind.recv()).await.unwrap());
    let says_nothing = || words().contains("did not come within 8 s") && reason() == Some(Reason::GatewaySilent);
    until("no hello", says_nothing).await;
    assert!(!a.twin.is_reached(key(2)));
    let b = world.node(2, Limits::default());
    b.set_peers(&[1, 2]);
    talk(&a, &b).await;
}

/// TLS is there for the gateway alone: an agent of this version says hello behind it, and nothing else is heard.
#[tokio::test(start_paused = true)]
async fn tls_without_the_right_hello_is_closed() {
    let world = World::new();
    let [_a, _b] = world.nodes::<2>(Limits::default());
    let connector = TlsConnector::from(Arc::new(tls::client().unwrap()));
    let name = "any.test".try_into().unwrap();
    let mut tls = within("TLS", connector.connect(name, world.gateway.connect(1))).await.unwrap();
    tls.write_all(b"p2pmesh\x02").await.unwrap();
    let mut said = Vec::new();
    // Closed without a word, in order or not.
    drop(within("the end", tls.read_to_end(&mut said)).await);
    assert!(said.is_empty(), "{said:?}");
}
