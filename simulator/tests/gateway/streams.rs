//! What goes in at one side comes out at the other, and ends as it ended there.

use std::io;

use dstack_simulator::gateway::{Gateway, Limits};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{World, exchange, hex, id, rest, silent_end, start_gateway, within};

const MIB: usize = 1024 * 1024;

/// Bytes without a period that a lost or doubled block could hide in.
fn block(seed: u64, number: usize) -> Vec<u8> {
    let mut state = seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = vec![0; MIB];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

async fn send(mut to: impl AsyncWrite + Unpin, seed: u64, blocks: usize) {
    for number in 0..blocks {
        to.write_all(&block(seed, number)).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin, seed: u64, blocks: usize) {
    let mut bytes = vec![0; MIB];
    for number in 0..blocks {
        from.read_exact(&mut bytes).await.unwrap();
        assert!(bytes == block(seed, number), "block {number} is damaged");
    }
    assert_eq!(from.read(&mut bytes).await.unwrap(), 0, "nothing after the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_go_both_ways_at_once() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let (client, server) = world.pair(id(1), &listener).await;
    let hello = world.gateway.counts();
    assert_eq!((hello.accepted, hello.open), (1, 1));
    let (from_gateway, to_gateway) = client.into_split();
    let (from_client, to_client) = server.into_split();
    let work = [
        tokio::spawn(send(to_gateway, 1, 64)),
        tokio::spawn(receive(from_client, 1, 64)),
        tokio::spawn(send(to_client, 2, 64)),
        tokio::spawn(receive(from_gateway, 2, 64)),
    ];
    for part in work {
        within("64 MiB", part).await.unwrap();
    }
    let counts = world.until("the end", |counts| counts.closed == 1 && counts.open == 0).await;
    assert_eq!(counts.to_clients, 64 * MIB as u64);
    assert!((1..8192).contains(&(counts.to_instances - 64 * MIB as u64)), "and the hello: {counts:?}");
}

/// Half of a connection can be over while the other half goes on, as with TLS that is told to close.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_that_is_closed_leaves_the_other_open() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    for client_first in [true, false] {
        let (client, server) = world.pair(id(1), &listener).await;
        let (mut early, mut late) = if client_first { (client, server) } else { (server, client) };
        early.shutdown().await.unwrap();
        assert_eq!(within("the passed-on end", late.read(&mut [0])).await.unwrap(), 0);
        let (sent, received) = (tokio::spawn(send(late, 3, 4)), tokio::spawn(receive(early, 3, 4)));
        within("the other half", sent).await.unwrap();
        within("the other half", received).await.unwrap();
    }
    world.until("both ends", |counts| counts.closed == 2 && counts.open == 0).await;
}

/// Unread bytes make the kernel reset instead of close.
async fn vanish(mut stream: TcpStream, other: &mut TcpStream) {
    other.write_all(b"unread").await.unwrap();
    within("bytes to leave unread", stream.readable()).await.unwrap();
    assert!(stream.peek(&mut [0]).await.unwrap() > 0);
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_side_that_is_reset_ends_the_other() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let (client, mut server) = world.pair(id(1), &listener).await;
    vanish(client, &mut server).await;
    rest(&mut server).await;
    let (mut client, server) = world.pair(id(1), &listener).await;
    vanish(server, &mut client).await;
    rest(&mut client).await;
    let counts = world.until("both ends", |counts| counts.open == 0).await;
    assert_eq!((counts.broken, counts.instances[&hex(id(1))]), (2, 0), "{counts:?}");
}

#[tokio::test]
async fn a_gateway_that_is_stopped_is_gone_and_its_port_can_be_used_again() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let (mut client, mut server) = world.pair(id(1), &listener).await;
    let address = world.gateway.address();
    let taken = Gateway::start(address, &[], Limits::default(), &world.registry).await.err().unwrap();
    assert!(taken.to_string().contains(&address.to_string()), "{taken}");

    within("its end", world.gateway.stop()).await;
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    silent_end(&mut client).await;
    silent_end(&mut server).await;

    let gateway = start_gateway(address, Limits::default(), &world.registry).await;
    let world = World { gateway, ..world };
    let (mut client, mut server) = world.pair(id(1), &listener).await;
    exchange(&mut client, &mut server).await;
}
