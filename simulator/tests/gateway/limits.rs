//! Each limit by itself, so short that the test sees it, with the others as they are.

use std::time::Duration;

use dstack_simulator::gateway::Limits;
use testkit::SteadyClock;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, interval};

use super::world::{World, client_hello, exchange, hanging, hex, id, read, silent_end, within};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn clients_that_are_slow_to_say_where_to_are_closed() {
    let _clock = SteadyClock::start();
    let (world, [_listener]) = World::start::<1>(Limits { hello: SECOND, ..Limits::default() }).await;
    let hello = client_hello(&world.name(id(1)));
    let silent = world.connect().await;
    let mut halting = world.connect().await;
    halting.write_all(&hello[..40]).await.unwrap();
    let begun = Instant::now();
    world.refused(silent).await;
    world.refused(halting).await;
    assert!(begun.elapsed() > SECOND / 2, "not before its time");
    assert_eq!(world.until("both", |counts| counts.open == 0).await.refused, 2);
}

#[tokio::test]
async fn a_client_that_drips_has_no_more_time_than_others() {
    let _clock = SteadyClock::start();
    let (world, [_listener]) = World::start::<1>(Limits { hello: SECOND, ..Limits::default() }).await;
    let mut client = world.connect().await;
    let mut drops = interval(Duration::from_millis(200));
    let dripping = async {
        // A record that announces much, and never gets to its server name.
        for byte in [22, 3, 1, 15, 255, 1, 0, 15, 251].into_iter().chain(std::iter::repeat(0)) {
            drops.tick().await;
            if client.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    };
    within("the end of patience", dripping).await;
    assert_eq!(world.until("the refusal", |counts| counts.open == 0).await.refused, 1);
}

/// All of it is refused at once, without waiting for a limit.
#[tokio::test]
async fn what_is_no_hello_is_refused() {
    let _clock = SteadyClock::start();
    let (world, [_listener]) = World::start::<1>(Limits::default()).await;
    let hello = client_hello(&world.name(id(1)));
    let mut nameless = client_hello("192.0.2.1");
    nameless.extend_from_slice(&[0; 64]);
    // An extension of 4,000 bytes before the name: a record of its own length, and too long for the gateway.
    let padded =
        [&hello[..3], &[16, 0], &hello[5..43], &[0, 0, 2, 19, 1, 1, 0, 16, 0, 0, 99, 15, 250], &[0; 4090]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 5000], &[22; 5000], &nameless, &padded] {
        let mut client = world.connect().await;
        // It may be closed in the middle.
        let _ = client.write_all(bytes).await;
        world.refused(client).await;
    }
    let mut half = world.connect().await;
    half.write_all(&hello[..40]).await.unwrap();
    half.shutdown().await.unwrap();
    world.refused(half).await;
    assert_eq!(world.until("all ended", |counts| counts.open == 0).await.refused, 6);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let _clock = SteadyClock::start();
    let idle = 2 * SECOND;
    let (world, [listener]) = World::start::<1>(Limits { idle, ..Limits::default() }).await;
    let (mut client, mut server) = world.pair(id(1), &listener).await;
    let mut ticks = interval(Duration::from_millis(100));
    let begun = Instant::now();
    // One direction is enough.
    while begun.elapsed() < 2 * idle {
        ticks.tick().await;
        server.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut client, 1).await, b"x");
    }
    let quiet = Instant::now();
    silent_end(&mut client).await;
    silent_end(&mut server).await;
    assert!(quiet.elapsed() > idle / 2, "not before its time");
    world.until("the idle end", |counts| counts.idle == 1 && counts.open == 0).await;
}

#[tokio::test]
async fn a_connection_is_closed_at_the_end_of_its_life_whatever_moves() {
    let _clock = SteadyClock::start();
    let (world, [listener]) =
        World::start::<1>(Limits { lifetime: 5 * SECOND, hello: 60 * SECOND, ..Limits::default() }).await;
    let begun = Instant::now();
    let (mut client, mut server) = world.pair(id(1), &listener).await;
    let silent = world.connect().await;
    let mut ticks = interval(Duration::from_millis(20));
    let life = async {
        loop {
            ticks.tick().await;
            if server.write_all(b"x").await.is_err() {
                return;
            }
            let mut byte = [0];
            if !tokio::io::AsyncReadExt::read(&mut client, &mut byte).await.is_ok_and(|length| length == 1) {
                return;
            }
        }
    };
    within("the end of its life", life).await;
    assert!(begun.elapsed() > 3 * SECOND, "not before its time");
    // Waiting for a hello is part of life.
    silent_end(&mut { silent }).await;
    let counts = world.until("both ends", |counts| counts.lifetime == 2).await;
    assert_eq!((counts.open, counts.instances[&hex(id(1))]), (0, 0));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed() {
    let _clock = SteadyClock::start();
    let (world, [listener]) = World::start::<1>(Limits { write_stall: SECOND, ..Limits::default() }).await;
    let (client, mut server) = world.pair(id(1), &listener).await;
    let flood = async {
        let mut sent = 0u64;
        while server.write_all(&[7; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        sent
    };
    let sent = within("the end of the flood", flood).await;
    let counts = world.until("the stall", |counts| counts.stalled == 1 && counts.open == 0).await;
    assert!(counts.to_clients > 0 && counts.to_clients <= sent);
    assert!(sent < 64 * 1024 * 1024, "what is not read is held by the kernel's buffers alone, not {sent} bytes");
    drop(client);
}

#[tokio::test]
async fn an_instance_that_stops_reading_is_closed_though_it_sends() {
    let _clock = SteadyClock::start();
    let (world, [listener]) = World::start::<1>(Limits { write_stall: SECOND, ..Limits::default() }).await;
    let (client, server) = world.pair(id(1), &listener).await;
    let (mut from_gateway, mut to_gateway) = client.into_split();
    let (_unread, mut sends) = server.into_split();
    let up = async { while to_gateway.write_all(&[7; 65_536]).await.is_ok() {} };
    let mut ticks = interval(Duration::from_millis(100));
    let down = async {
        loop {
            ticks.tick().await;
            let mut byte = [0];
            let alive = sends.write_all(b"x").await.is_ok()
                && tokio::io::AsyncReadExt::read(&mut from_gateway, &mut byte).await.is_ok_and(|length| length == 1);
            if !alive {
                return;
            }
        }
    };
    within("the end of both directions", async { tokio::join!(up, down) }).await;
    world.until("the stall", |counts| counts.stalled == 1 && counts.open == 0).await;
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let _clock = SteadyClock::start();
    let (world, [one, two]) = World::start::<2>(Limits { connections_per_app: 2, ..Limits::default() }).await;
    let mut first = world.pair(id(1), &one).await;
    let second = world.pair(id(1), &one).await;
    let (third, _) = world.dial(&world.name(id(1))).await;
    silent_end(&mut { third }).await;
    world.until("the refusal", |counts| counts.refused == 1 && counts.open == 2).await;
    // Each instance has its own, and those who are in stay.
    world.pair(id(2), &two).await;
    exchange(&mut first.0, &mut first.1).await;
    drop(second);
    world.until("a free place", |counts| counts.instances[&hex(id(1))] == 1).await;
    let mut again = world.pair(id(1), &one).await;
    exchange(&mut again.0, &mut again.1).await;
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_given_up() {
    let _clock = SteadyClock::start();
    let (world, [listener]) = World::start::<1>(Limits { connect: SECOND, ..Limits::default() }).await;
    drop(listener);
    let _hanging = hanging(1, world.port).await;
    let begun = Instant::now();
    let (client, _) = world.dial(&world.name(id(1))).await;
    world.refused(client).await;
    assert!(begun.elapsed() > SECOND / 2, "not before its time");
    assert_eq!(world.gateway.counts().instances[&hex(id(1))], 0);
}
