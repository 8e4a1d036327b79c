//! Datagrams from the network: any bytes, and genuine messages that were changed on their way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::end::{End, Taken};
use super::input::Input;
use crate::key::PublicKey;
use crate::noise::{COOKIE_LEN, HANDSHAKES_PER_SECOND, Initiation, Message, OVERHEAD, Verdict, classify, sign};

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The first byte chooses: the rest is a datagram as it is, or says how a genuine message of one kind is changed.
pub fn datagram(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 5 {
        0 => anything(input.rest()),
        1 => initiation(&mut input),
        2 => response(&mut input),
        3 => data(&mut input),
        _ => cookie(&mut input),
    }
}

/// No message made without a key is accepted, before a handshake or after it.
fn anything(datagram: &[u8]) {
    let (mut here, mut there) = ends();
    assert!(there.take(datagram).is_none(), "accepted before any handshake");
    here.shake_hands(&mut there);
    assert!(here.take(datagram).is_none(), "accepted by the initiator");
    assert!(there.take(datagram).is_none(), "accepted by the responder");
    if is_handshake(datagram) {
        assert!(!passes(&there, datagram), "passed without the first MAC");
    }
    assert!(here.is_joined(&mut there), "the session is gone");
}

/// Of an initiation, only the sender's index, and the second MAC while there is no load, are not authenticated.
fn initiation(input: &mut Input<'_>) {
    let (mut here, mut there) = ends();
    let genuine = here.ask();
    let changed = changed(&genuine, input, &there.identity.public());
    let same = same_but(&genuine, &changed, &[4..8, 116..148]);
    if is_handshake(&changed) && passes(&there, &changed) {
        // The initiator's key is in front of the timestamp.
        let from = same_but(&genuine, &changed, &[4..8, 88..148]).then(|| here.identity.public());
        let read = Initiation::read(&there.identity, &changed);
        assert_eq!(read.map(|initiation| initiation.initiator()), from);
        assert_eq!(matches!(there.take(&changed), Some(Taken::Initiation(_))), same);
        assert!(there.take(&changed).is_none(), "taken twice");
    }
    assert!(here.shake_hands(&mut there), "the next handshake fails");
}

/// Of a response, only the sender's index, and the second MAC while there is no load, are not authenticated.
fn response(input: &mut Input<'_>) {
    let (mut here, mut there) = ends();
    let Some(Taken::Initiation(genuine)) = there.take(&here.ask()) else { panic!("a genuine initiation was refused") };
    let changed = changed(&genuine, input, &here.identity.public());
    let same = same_but(&genuine, &changed, &[4..8, 60..92]);
    if is_handshake(&changed) && passes(&here, &changed) {
        assert_eq!(here.take(&changed) == Some(Taken::Established), same);
    }
    if !here.has_session() {
        assert_eq!(here.take(&genuine), Some(Taken::Established), "spoilt by another");
    }
    assert!(here.take(&genuine).is_none(), "taken twice");
}

/// Any packet arrives once and unchanged, and only if its message was not changed.
fn data(input: &mut Input<'_>) {
    let (mut here, mut there) = ends();
    here.shake_hands(&mut there);
    let mut packet = vec![0; usize::from(input.u16() % 512)];
    packet.fill_with(|| input.byte());
    let Some(genuine) = here.seal(&packet) else { panic!("a session that seals nothing") };
    assert_eq!(genuine.len(), packet.len() + OVERHEAD);
    let changed = changed(&genuine, input, &there.identity.public());
    if changed != genuine {
        assert!(there.take(&changed).is_none(), "a changed message was taken");
    }
    match (there.take(&genuine), inner(&packet)) {
        (Some(Taken::Keepalive), _) => assert!(packet.is_empty()),
        (Some(Taken::Packet(packet, source)), Some(inner)) => assert_eq!((&packet[..], source), inner),
        (None, None) => assert!(!packet.is_empty()),
        _ => panic!("the packet that was read is not the one that was written: {packet:02x?}"),
    }
    assert!(there.take(&genuine).is_none(), "a replay was taken");
    assert!(here.is_joined(&mut there), "the session is gone");
}

/// A cookie reply is accepted only unchanged, and only by the end that it was sent to.
fn cookie(input: &mut Input<'_>) {
    let (mut here, mut there) = ends();
    let initiation = here.ask();
    let mut reply = [0; COOKIE_LEN];
    // The limit is per second by the clock: a machine that was suspended in between sends no cookie.
    let asked = (0..=HANDSHAKES_PER_SECOND)
        .any(|_| matches!(there.identity.check(FROM, &initiation, &mut reply), Verdict::Cookie(COOKIE_LEN)));
    if !asked {
        return;
    }
    let changed = changed(&reply, input, &here.identity.public());
    assert!(there.take(&reply).is_none(), "a cookie was accepted by an end that sent no initiation");
    assert_eq!(here.take(&changed) == Some(Taken::Cookie), changed == reply);
}

fn ends() -> (End, End) {
    (End::new(1, 2, Some(3)), End::new(2, 1, Some(3)))
}

fn passes(end: &End, message: &[u8]) -> bool {
    matches!(end.identity.check(FROM, message, &mut [0; COOKIE_LEN]), Verdict::Pass)
}

/// A message changed as the input says: bytes flipped, cut off or appended, and then perhaps with a valid first MAC, which any
/// sender can make that knows the receiver's public key.
fn changed(genuine: &[u8], input: &mut Input<'_>, receiver: &PublicKey) -> Vec<u8> {
    let mut message = genuine.to_vec();
    let [how, count, by] = input.array();
    match how & 3 {
        1 => message.truncate(message.len().saturating_sub(usize::from(by))),
        2 => message.resize(message.len() + usize::from(by), how),
        _ => {}
    }
    for _ in 0..count % 8 {
        let (at, mask) = (usize::from(input.u16()), input.byte());
        if let Some(byte) = message.get_mut(at % genuine.len()) {
            *byte ^= mask;
        }
    }
    if how & 4 == 0 && is_handshake(&message) {
        let end = message.len() - 32;
        let rest = message[end + 16..].to_vec();
        sign(&mut message, receiver, None);
        message[end + 16..].copy_from_slice(&rest);
    }
    message
}

fn is_handshake(datagram: &[u8]) -> bool {
    matches!(classify(datagram), Some(Message::Initiation | Message::Response { .. }))
}

fn same_but(one: &[u8], other: &[u8], free: &[std::ops::Range<usize>]) -> bool {
    let differs = |at: usize| one[at] != other[at] && !free.iter().any(|range| range.contains(&at));
    one.len() == other.len() && !(0..one.len()).any(differs)
}

/// The packet and its source, without padding.
fn inner(bytes: &[u8]) -> Option<(&[u8], IpAddr)> {
    let (len, source, least) = match bytes.first()? >> 4 {
        4 => {
            let source = Ipv4Addr::from(bytes.get(12..16)?.first_chunk::<4>().copied()?);
            (u16::from_be_bytes([bytes[2], bytes[3]]).into(), source.into(), 20)
        }
        6 => {
            let source = Ipv6Addr::from(bytes.get(8..24)?.first_chunk::<16>().copied()?);
            (usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) + 40, source.into(), 40)
        }
        _ => return None,
    };
    (len >= least).then(|| Some((bytes.get(..len)?, source))).flatten()
}
