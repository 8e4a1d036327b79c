//! Handshakes between two of our own ends and with boringtun, in both roles.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use proptest::prelude::*;

use super::*;
use crate::sessions::end::{End, Taken, nowhere, private};

/// boringtun with the key made of the byte `own`, towards that of the other.
fn oracle(own: u8, other: u8, psk: Option<u8>) -> Tunn {
    let peer = (*private(other).public_key().as_bytes()).into();
    Tunn::new(private(own).secret(), peer, psk.map(|byte| [byte; 32]), None, 9, None)
}

/// An IP packet with padding.
fn packet() -> [u8; 32] {
    let mut packet = [0; 32];
    (packet[0], packet[3], packet[15], packet[19]) = (0x45, 20, 9, 7);
    packet
}

/// What boringtun sends in response to a message, or to none.
fn said(result: TunnResult<'_>) -> Option<Vec<u8>> {
    match result {
        TunnResult::WriteToNetwork(message) => Some(message.to_vec()),
        TunnResult::WriteToTunnelV4(packet, _) => Some(packet.to_vec()),
        TunnResult::WriteToTunnelV6(..) | TunnResult::Done | TunnResult::Err(_) => None,
    }
}

fn packets_cross(ours: &mut End, theirs: &mut Tunn) {
    let mut buffer = [0; 2048];
    for _ in 0..3 {
        let message = ours.seal(&packet()).unwrap();
        assert_eq!(said(theirs.decapsulate(None, &message, &mut buffer)).unwrap(), packet()[..20]);
        let message = said(theirs.encapsulate(&packet(), &mut buffer)).unwrap();
        assert_eq!(ours.take(&message), Some(Taken::Packet(packet()[..20].to_vec(), "0.0.0.9".parse().unwrap())));
        assert_eq!(ours.take(&message), None, "a replay");
    }
}

#[test]
fn boringtun_answers_us() {
    for psk in [None, Some(5)] {
        let (mut ours, mut theirs, mut buffer) = (End::new(1, 2, psk), oracle(2, 1, psk), [0; 2048]);
        let answer = said(theirs.decapsulate(None, &ours.initiate(), &mut buffer)).unwrap();
        assert_eq!(ours.take(&answer), Some(Taken::Established));
        packets_cross(&mut ours, &mut theirs);
    }
}

#[test]
fn we_answer_boringtun() {
    for psk in [None, Some(5)] {
        let (mut ours, mut theirs, mut buffer) = (End::new(1, 2, psk), oracle(2, 1, psk), [0; 2048]);
        let initiation = said(theirs.format_handshake_initiation(&mut buffer, false)).unwrap();
        let Some(Taken::Initiation(answer)) = ours.take(&initiation) else { panic!("the initiation was refused") };
        assert!(!ours.has_session(), "the peer has not proved yet that it has the session");
        let confirmation = said(theirs.decapsulate(None, &answer, &mut buffer)).unwrap();
        assert_eq!(ours.take(&confirmation), Some(Taken::Keepalive));
        packets_cross(&mut ours, &mut theirs);
    }
}

#[test]
fn a_handshake_needs_the_same_preshared_key() {
    let succeeds = |here, there| End::new(1, 2, here).shake_hands(&mut End::new(2, 1, there));
    assert!(succeeds(None, None) && succeeds(Some(1), Some(1)));
    assert!(!succeeds(Some(1), Some(2)) && !succeeds(Some(1), None) && !succeeds(None, Some(1)));
    // In the protocol, a key of zeros means none.
    assert!(succeeds(None, Some(0)));
    let (mut ours, mut theirs, mut buffer) = (End::new(1, 2, Some(1)), oracle(2, 1, Some(2)), [0; 2048]);
    let answer = said(theirs.decapsulate(None, &ours.initiate(), &mut buffer)).unwrap();
    assert_eq!(ours.take(&answer), None);
}

#[test]
fn only_messages_for_this_device_are_addressed_to_it() {
    let (mut here, there) = (End::new(1, 2, None), End::new(2, 1, None));
    let genuine = here.initiate();
    assert!(there.identity.is_addressed(&genuine) && !here.identity.is_addressed(&genuine));
    for at in 0..INITIATION_LEN {
        let mut changed = genuine.clone();
        changed[at] ^= 1;
        assert_eq!(there.identity.is_addressed(&changed), at >= 132, "byte {at}");
    }
    assert!((0..32).all(|len| !there.identity.is_addressed(&genuine[..len])), "too short for two MACs");
    // boringtun makes the same.
    let theirs = said(oracle(1, 2, None).format_handshake_initiation(&mut [0; 2048], false)).unwrap();
    assert!(there.identity.is_addressed(&theirs));
}

#[test]
fn a_cookie_is_for_one_address_and_port_and_for_two_minutes() {
    const S: Duration = Duration::from_secs(1);
    for from in ["192.0.2.1:7", "[2001:db8::1]:7"] {
        let from: SocketAddr = from.parse().unwrap();
        let (mut here, there, mut jar) = (End::new(1, 2, None), End::new(2, 1, None), CookieJar::default());
        let (start, initiation) = (Instant::now(), here.initiate());
        assert!(!jar.is_shown(&initiation, from, start));
        let reply = jar.reply(&there.identity, &initiation, from, start).unwrap();
        assert_eq!(here.take(&reply), Some(Taken::Cookie));
        let shown = here.initiate();
        let mut other_port = from;
        other_port.set_port(8);
        let other_address = SocketAddr::new("192.0.2.2".parse().unwrap(), 7);
        assert!(jar.is_shown(&shown, from, start));
        assert!(!jar.is_shown(&shown, other_port, start) && !jar.is_shown(&shown, other_address, start));
        let mut changed = shown.clone();
        changed[147] ^= 1;
        assert!(!jar.is_shown(&changed, from, start));
        // One that is given out just before the secret changes is good for as long as any.
        let reply = jar.reply(&there.identity, &initiation, from, start + 119 * S).unwrap();
        assert_eq!(here.take(&reply), Some(Taken::Cookie));
        let shown = here.initiate();
        jar.reply(&there.identity, &initiation, from, start + 120 * S).unwrap();
        assert!(jar.is_shown(&shown, from, start + 239 * S));
        assert!(!jar.is_shown(&shown, from, start + 240 * S));
        let again = jar.reply(&there.identity, &initiation, from, start + 121 * S).unwrap();
        assert_eq!(here.take(&again), Some(Taken::Cookie));
        let shown = here.initiate();
        jar.reply(&there.identity, &initiation, from, start + 300 * S).unwrap();
        assert!(jar.is_shown(&shown, from, start + 301 * S), "of the secret before");
        jar.reply(&there.identity, &initiation, from, start + 1000 * S).unwrap();
        assert!(!jar.is_shown(&shown, from, start + 1000 * S));
    }
}

#[test]
fn boringtun_takes_our_cookie_and_shows_it() {
    let from = "192.0.2.1:7".parse().unwrap();
    let (mut ours, mut theirs, mut jar) = (End::new(1, 2, None), oracle(2, 1, None), CookieJar::default());
    let (now, mut buffer) = (Instant::now(), [0; 2048]);
    let initiation = said(theirs.format_handshake_initiation(&mut buffer, false)).unwrap();
    let reply = jar.reply(&ours.identity, &initiation, from, now).unwrap();
    assert!(matches!(theirs.decapsulate(None, &reply, &mut buffer), TunnResult::Done));
    let again = said(theirs.format_handshake_initiation(&mut buffer, true)).unwrap();
    assert!(jar.is_shown(&again, from, now) && ours.identity.is_addressed(&again));
    let Some(Taken::Initiation(answer)) = ours.take(&again) else { panic!("the initiation was refused") };
    let confirmation = said(theirs.decapsulate(None, &answer, &mut buffer)).unwrap();
    assert_eq!(ours.take(&confirmation), Some(Taken::Keepalive));
    packets_cross(&mut ours, &mut theirs);
}

#[test]
fn we_take_the_cookie_of_boringtun_and_show_it() {
    let mut ours = End::new(1, 2, None);
    let gate = RateLimiter::new(&(*private(2).public_key().as_bytes()).into(), 1);
    let from = Some("192.0.2.1".parse().unwrap());
    let mut buffer = [0; 2048];
    let reply = loop {
        match gate.verify_packet(from, &ours.initiate(), &mut buffer) {
            Err(TunnResult::WriteToNetwork(reply)) => break reply.to_vec(),
            result => assert!(result.is_ok(), "{result:?}"),
        }
    };
    assert_eq!(ours.take(&reply), Some(Taken::Cookie));
    let again = ours.initiate();
    assert!((0..10).all(|_| gate.verify_packet(from, &again, &mut buffer).is_ok()), "the cookie was not honoured");
}

/// The initiator may be under load as well.
#[test]
fn a_cookie_for_a_response_is_used_in_the_next_message() {
    let from = "192.0.2.1:7".parse().unwrap();
    let (mut here, mut there, mut jar) = (End::new(1, 2, None), End::new(2, 1, None), CookieJar::default());
    let Some(Taken::Initiation(answer)) = there.take(&here.initiate()) else { panic!("refused") };
    assert_eq!(answer[76..], [0; 16], "no cookie yet");
    let taken = Instant::now();
    let reply = jar.reply(&here.identity, &answer, from, taken).unwrap();
    assert_eq!(there.take(&reply), Some(Taken::Cookie));
    let Some(Taken::Initiation(answer)) = there.take(&here.initiate()) else { panic!("refused") };
    assert!(here.identity.is_addressed(&answer) && jar.is_shown(&answer, from, taken));
    for (seconds, is_used) in [(110, true), (121, false)] {
        let now = taken + Duration::from_secs(seconds);
        let message = there
            .sessions
            .initiate(&there.identity, &here.identity.public(), nowhere(), now, std::time::SystemTime::now())
            .unwrap();
        assert_eq!(message[132..] != [0; 16], is_used, "{seconds} s later");
    }
}

#[test]
fn threads_seal_and_open_at_the_same_time() {
    let (mut here, mut there) = (End::new(1, 2, None), End::new(2, 1, None));
    assert!(here.shake_hands(&mut there));
    let now = std::time::Instant::now();
    let seals = here.sessions.sealing(now).unwrap();
    let seal = || -> Vec<[u8; OVERHEAD]> {
        let sealed = || {
            let mut message = [0; OVERHEAD];
            seals.seal(&mut message, 0).map(|_| message)
        };
        std::iter::repeat_with(sealed).flatten().take(1000).collect()
    };
    let sealed = std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(seal)).map(|thread| thread.join().unwrap()));
    let Some(Message::Data { receiver }) = classify(&sealed[0][0]) else { panic!("no data") };
    let opens = there.sessions.by_receiver(receiver, now).unwrap();
    // Two threads open each message: one of them accepts it.
    let open = |messages: &[[u8; OVERHEAD]]| {
        messages.iter().filter(|message| open_one(&opens, &mut message[..].to_vec()).is_some()).count()
    };
    let opened: usize = std::thread::scope(|scope| {
        let twice = [0, 1, 2, 3, 0, 1, 2, 3].map(|number: usize| &sealed[number]);
        twice.map(|messages| scope.spawn(move || open(messages))).map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    assert_eq!(opened, 4000);
}

#[test]
fn an_initiation_is_taken_once_and_no_older_one_after_it() {
    let (mut here, mut there) = (End::new(1, 2, None), End::new(2, 1, None));
    let initiations: Vec<Vec<u8>> = (0..3).map(|_| here.initiate()).collect();
    assert!(there.take(&initiations[1]).is_some());
    assert!(there.take(&initiations[1]).is_none() && there.take(&initiations[0]).is_none());
    assert!(there.take(&initiations[2]).is_some());
}

/// The claimed initiator is in front of the timestamp, and proved by it.
#[test]
fn of_an_initiation_only_the_index_and_the_macs_may_change() {
    let (mut here, there) = (End::new(1, 2, None), End::new(2, 1, None));
    let genuine = here.initiate();
    for at in 4..INITIATION_LEN {
        let mut changed = genuine.clone();
        changed[at] ^= 0x81;
        let initiation = Initiation::read(&there.identity, &changed);
        let claimed = matches!(at, 4..8 | 88..).then(|| here.identity.public());
        assert_eq!(initiation.as_ref().map(|initiation| initiation.initiator()), claimed, "byte {at}");
        let proved = initiation.and_then(|initiation| initiation.prove(&there.identity));
        assert_eq!(proved.is_some(), matches!(at, 4..8 | 116..), "byte {at}");
    }
}

#[test]
fn keys_that_share_no_secret_are_refused() {
    let (mut here, mut there) = (End::new(1, 2, None), End::new(2, 1, None));
    let mut initiation = here.initiate();
    initiation[8..40].fill(0);
    sign(&mut initiation, &there.identity.public(), None);
    assert!(there.take(&initiation).is_none());
    let Some(Taken::Initiation(mut answer)) = there.take(&here.initiate()) else { panic!("refused") };
    answer[12..44].fill(0);
    sign(&mut answer, &here.identity.public(), None);
    assert!(here.take(&answer).is_none());
    let low_order = crate::key::PublicKey::from_bytes([0; 32]);
    let timestamp = here.identity.timestamp(std::time::SystemTime::now());
    assert!(SentInitiation::new(&here.identity, &low_order, 1, timestamp, None, &mut [0; INITIATION_LEN]).is_none());
}

#[test]
fn datagrams_are_classified_by_type_and_length() {
    let mut datagram = [0; 200];
    datagram[4..12].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
    for (kind, len, expected) in [
        (1, 148, Some(Message::Initiation)),
        (1, 147, None),
        (2, 92, Some(Message::Response { receiver: 2 })),
        (2, 93, None),
        (3, 64, Some(Message::Cookie { receiver: 1 })),
        (3, 0, None),
        (4, 32, Some(Message::Data { receiver: 1 })),
        (4, 31, None),
        (5, 64, None),
        (0x104, 64, None),
    ] {
        datagram[..4].copy_from_slice(&u32::to_le_bytes(kind));
        assert_eq!(classify(&datagram[..len]), expected, "type {kind}, {len} bytes");
    }
}

proptest! {
    #[test]
    fn any_datagram_is_taken_without_a_panic(
        kind in 0_u8..6,
        len in prop::sample::select(vec![0_usize, 1, 4, 16, 31, 32, 33, 64, 92, 148, 149, 600]),
        bytes in prop::collection::vec(any::<u8>(), 600),
    ) {
        let mut datagram = bytes[..len].to_vec();
        if let Some(head) = datagram.get_mut(..4) { head.copy_from_slice(&[kind, 0, 0, 0]); }
        let mut here = End::new(1, 2, None);
        prop_assert!(here.take(&datagram).is_none());
        prop_assert!(!here.identity.is_addressed(&datagram));
        let (from, now, mut jar) = ("192.0.2.1:7".parse().unwrap(), Instant::now(), CookieJar::default());
        jar.reply(&here.identity, &datagram, from, now);
        prop_assert!(!jar.is_shown(&datagram, from, now));
    }
}
