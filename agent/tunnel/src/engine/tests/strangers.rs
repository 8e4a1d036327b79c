//! Floods of handshakes by streams that strangers opened, who show the cookies that they get.

use super::*;
use crate::noise::{Cookie, sign};

/// Streams that a stranger has at once: as many as `mesh-paths` lets in.
const STREAMS: usize = 63;

struct Stranger {
    /// With a right first MAC, garbled behind it.
    message: Vec<u8>,
    victim: PublicKey,
    cookies: [Option<Cookie>; STREAMS],
}

impl Stranger {
    fn new(now: Instant) -> Self {
        let victim = private(1).public_key();
        let mut engine = Engine::new(EngineOptions { seed: 9, tap: TAP, mtu: 1420 }, now, SystemTime::UNIX_EPOCH);
        let peer = PeerUpdate { endpoint: Some(address(1)), persistent_keepalive: Some(25), ..PeerUpdate::new(victim) };
        let private_key = Some(PrivateKey::from_bytes(Zeroizing::new([9; 32])));
        engine.apply(DeviceUpdate { private_key, peers: vec![peer], ..DeviceUpdate::default() }, now);
        let mut message = engine.poll_transmit().unwrap().bytes;
        message[40] ^= 1;
        Self { message, victim, cookies: [None; STREAMS] }
    }

    /// Four initiations by each stream in each ten milliseconds, for so long, at the second node of that world.
    fn flood(&mut self, world: &mut World, time: Duration) {
        for _ in 0..time.as_millis() / 10 {
            for _ in 0..4 {
                for (number, cookie) in (100..).zip(&mut self.cookies) {
                    let first_mac = sign(&mut self.message, &self.victim, cookie.as_ref());
                    world.nodes[1].engine.handle_stream(number, &self.message, world.now);
                    while let Some(sent) = world.nodes[1].engine.poll_transmit() {
                        assert_eq!((sent.bytes[0], sent.to), (3, EngineTarget::Stream(number)));
                        // By one stream it goes on without, which is what it may have by all of them.
                        *cookie =
                            Cookie::open(&sent.bytes, &self.victim, &first_mac, world.now).filter(|_| number > 100);
                    }
                }
            }
            world.run(Duration::from_millis(10));
        }
    }
}

/// Two nodes without endpoints, so that only streams join them, the second in a flood; what they say to each other takes the stream.
fn joined_in_a_flood(dialer: usize) -> World {
    let mut world = World::new(1);
    let mut stranger = Stranger::new(world.start);
    for at in [0, 1] {
        let allowed_ips = vec![format!("10.0.1.{}/32", 2 - at).parse().unwrap()];
        let peers = vec![PeerUpdate { allowed_ips, ..PeerUpdate::new(private(1 - at).public_key()) }];
        let update = DeviceUpdate { private_key: Some(private(at)), peers, ..DeviceUpdate::default() };
        world.with(at.into(), |engine, _, now| engine.apply(update, now));
    }
    stranger.flood(&mut world, S / 2);
    assert!(stranger.cookies[1..].iter().all(Option::is_some), "each stream has its cookie");
    world.with(dialer, |engine, peer, now| engine.set_stream(peer, Some(STREAM), now));
    world.with(dialer, |engine, peer, now| engine.initiate(peer, STREAM, now));
    stranger.flood(&mut world, S);
    world
}

#[test]
fn a_peer_proves_itself_by_a_new_stream_beside_strangers_that_show_cookies() {
    let world = joined_in_a_flood(0);
    assert!(world.count(0, 1, "kind 3,") > 0, "it was asked for a cookie");
    assert!(world.count(0, 0, "RoundTrip") > 0, "it was answered");
    assert!(world.count(0, 1, "Proved { stream: 7") > 0, "and uses the session");
}

/// The response comes by a stream that we dialed, which is no stranger's: it needs no cookie.
#[test]
fn a_dialed_stream_is_proved_at_once_beside_strangers() {
    let world = joined_in_a_flood(1);
    assert!(world.count(0, 1, "RoundTrip") > 0, "it was answered");
    assert_eq!(world.count(0, 1, "kind 3,"), 0, "no cookie was asked for");
    let sent = world.history.iter().find(|line| line.1 == 1 && line.2.starts_with("kind 1,")).unwrap().0;
    let proved = world.history.iter().find(|line| line.1 == 1 && line.2.contains("RoundTrip")).unwrap().0;
    assert!(proved - sent <= 8 * LATENCY + Duration::from_millis(10), "{:?}", proved - sent);
}
