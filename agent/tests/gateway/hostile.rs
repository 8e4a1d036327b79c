//! Whoever calls and is no peer.

use std::{net::SocketAddr, time::Duration};

use dstack_simulator::gateway::Limits as GatewayLimits;
use p2p_agent::gateway::{Config, Limits, Transport, Trouble};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    device::Twin,
    world::{World, talk, token, until, within},
};

async fn end(stream: &mut TcpStream) {
    // An alert may come first, and the end may be a reset.
    drop(within("the end", stream.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_nonsense_is_closed() {
    let world = World::start(GatewayLimits::default()).await;
    let [a, _b] = world.nodes::<2>(Limits { hello: Duration::from_secs(2), ..Limits::default() }).await;
    let address = a.transport.address().unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut web = TcpStream::connect(address).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // The first record of a handshake, a byte at a time, never whole.
    let mut slow = TcpStream::connect(address).await.unwrap();
    end(&mut web).await;
    within("the end of the slow one", async {
        for byte in [0x16u8, 3, 1, 0x3f, 0xff].into_iter().chain(std::iter::repeat(0)) {
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    end(&mut silent).await;
    a.reports("room", |report| (report.streams <= 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let world = World::start(GatewayLimits::default()).await;
    world.register(&[1, 2]);
    // The crowd would stay for a long time if it were let.
    let b = world.node(2, Limits { hello: Duration::from_secs(600), ..Limits::default() }).await;
    world.acquaint(&b, &[1, 2]);
    let address: SocketAddr = b.transport.address().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let a = world.node(1, Limits::default()).await;
    world.acquaint(&a, &[1, 2]);
    talk(&a, &b).await;
    let report = within("the report", b.transport.report()).await;
    assert!(report.streams <= 64 + 1, "{} streams", report.streams);
    // The first ones had to go.
    for stream in &mut crowd[..100] {
        end(stream).await;
    }
    talk(&a, &b).await;
}

/// Somebody brings a packet of the peer's by a stream of his own, and can answer nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_packet_caught_elsewhere_takes_no_streams_place() {
    let world = World::start(GatewayLimits::default()).await;
    let [a, b] = world.nodes::<2>(Limits::default()).await;
    talk(&a, &b).await;
    let thief = Twin::thief(a.token);
    let config = Config { listen: None, gateway: Some(world.address), limits: Limits::default() };
    let transport = Transport::start(config, std::sync::Arc::<Twin>::clone(&thief)).await.unwrap();
    transport.set_peers([(b.token, Some(world.place(2)))].into());
    // He is asked to answer, which shows that his packet was taken for the peer's.
    until("his packet to be heard", || thief.route(b.token).is_some_and(|stream| stream.peer() == Some(b.token))).await;
    talk(&a, &b).await;
    until("his end", || thief.peer(b.token, |peer| peer.history.iter().any(Result::is_err))).await;
    talk(&a, &b).await;
    b.twin.peer(a.token, |peer| assert_eq!(peer.history.len(), 1, "{:?}", peer.history));
}

/// Something else listens where the peer should: it is closed, told apart, and called again later.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_agent_is_told_apart() {
    let world = World::start(GatewayLimits::default()).await;
    world.register(&[1, 2]);
    let a = world.node(1, Limits { hello: Duration::from_secs(2), ..Limits::default() }).await;
    let listener = TcpListener::bind((world.ip(2), world.port)).await.unwrap();
    let (mut web, mut held) = (true, Vec::new());
    world.acquaint(&a, &[1, 2]);
    let mut wanted = [false; 2];
    within("both kinds of trouble", async {
        while wanted.contains(&false) {
            let accepted = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
            if let Ok(Ok((mut stream, _))) = accepted {
                if web {
                    drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
                }
                // Says nothing, but stays.
                web = !web;
                held.push(stream);
            }
            let report = a.transport.report().await;
            match report.peers.get(&token(2)).and_then(|peer| peer.trouble.as_ref()) {
                Some(Trouble::Tls(_)) => wanted[0] = true,
                Some(Trouble::TimedOut { .. }) => wanted[1] = true,
                _ => {}
            }
        }
    })
    .await;
    assert!(a.twin.route(token(2)).is_none());
    drop((listener, held));
    let b = world.node(2, Limits::default()).await;
    world.acquaint(&b, &[1, 2]);
    talk(&a, &b).await;
}
