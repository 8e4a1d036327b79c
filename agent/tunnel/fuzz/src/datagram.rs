//! Datagrams from the network: any bytes, and genuine messages that were changed on their way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use mesh_offload::{clamp_mss, packet};
use mesh_tunnel::{Drops, EngineEvent, Path, PublicKey};

use super::counterpart::{Counterpart, is_of_another};
use super::engines::{TAP, address};
use super::input::Input;
use super::pair::{MTU, Pair, key, refuse, state};

/// Bytes that a data message has beside its content.
const OVERHEAD: usize = 32;

/// The first byte chooses the kind, and where it comes from: the rest is a datagram as it is, or says how a genuine message of one
/// kind is changed.
pub fn datagram(input: &[u8]) {
    let mut input = Input::new(input);
    let choice = input.byte();
    let elsewhere = match choice / 5 % 3 {
        0 => None,
        1 => Some(address(77)),
        _ => Some((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 7).into()),
    };
    match choice % 5 {
        0 => anything(input.rest(), elsewhere),
        1 => initiation(&mut input, elsewhere),
        2 => response(&mut input, elsewhere),
        3 => data(&mut input, elsewhere),
        _ => cookie(&mut input, elsewhere),
    }
}

/// No message made without a key is accepted, before a handshake or after it.
fn anything(datagram: &[u8], elsewhere: Option<SocketAddr>) {
    let mut pair = Pair::new();
    let initiation = pair.ask();
    let refused = |pair: &mut Pair| {
        pair.refuse(0, elsewhere.unwrap_or(address(1)), datagram);
        pair.refuse(1, elsewhere.unwrap_or(address(0)), datagram);
    };
    refused(&mut pair);
    pair.finish(&initiation);
    refused(&mut pair);
    pair.check();
}

/// Of an initiation, only the sender's index, and the second MAC while there is no load, are not authenticated.
fn initiation(input: &mut Input<'_>, elsewhere: Option<SocketAddr>) {
    let (mut pair, from) = (Pair::new(), elsewhere.unwrap_or(address(0)));
    let genuine = pair.ask();
    let changed = changed(&genuine, input, &key(1));
    if has_first_mac(&changed, &key(1)) && same_but(&genuine, &changed, &[4..8, 116..148]) {
        pair.answer(from, &changed);
        assert_eq!(state(&pair.devices[1], key(0), pair.now).endpoint, None, "an initiation proves no address");
        pair.refuse(1, from, &changed);
        pair.refuse(1, address(0), &genuine);
        let next = pair.ask();
        pair.finish(&next);
    } else {
        pair.refuse(1, from, &changed);
        pair.finish(&genuine);
    }
    pair.refuse(1, address(0), &genuine);
}

/// Of a response, only the sender's index, and the second MAC while there is no load, are not authenticated.
fn response(input: &mut Input<'_>, elsewhere: Option<SocketAddr>) {
    let (mut pair, from) = (Pair::new(), elsewhere.unwrap_or(address(1)));
    let initiation = pair.ask();
    let genuine = pair.answer(address(0), &initiation);
    let changed = changed(&genuine, input, &key(0));
    if has_first_mac(&changed, &key(0)) && same_but(&genuine, &changed, &[4..8, 60..92]) {
        let confirmation = pair.complete(from, &changed);
        if changed[4..8] == genuine[4..8] {
            pair.confirm(&confirmation);
        } else {
            pair.refuse(1, address(0), &confirmation);
        }
    } else {
        pair.refuse(0, from, &changed);
        let confirmation = pair.complete(address(1), &genuine);
        pair.confirm(&confirmation);
    }
    pair.refuse(0, address(1), &genuine);
}

/// Any packet arrives once and unchanged, and only if its message was not changed and its source is the peer's. Wherever the message
/// comes from, the endpoint stays.
fn data(input: &mut Input<'_>, elsewhere: Option<SocketAddr>) {
    let (mut peer, from) = (Counterpart::with_session(), elsewhere.unwrap_or(Counterpart::address()));
    let mut content = vec![0; usize::from(input.u16() % 512)];
    content.fill_with(|| input.byte());
    // What begins with a zero is about the path, and may be answered.
    content.first_mut().into_iter().for_each(|first| *first |= u8::from(*first == 0) << 4);
    let genuine = peer.seal(&content);
    assert_eq!(genuine.len(), content.len() + OVERHEAD);
    let changed = changed(&genuine, input, &key(0));
    let (now, device) = (peer.now, &mut peer.device);
    if changed != genuine {
        refuse(device, from, &changed, now);
    }
    let (drops, expected) = (device.drops(), inner(&content));
    if expected.is_none() && !content.is_empty() {
        refuse(device, from, &genuine, now);
    } else {
        let received = state(device, Counterpart::key(), now).rx_bytes;
        device.handle_datagram(from, &genuine, now);
        assert_eq!(state(device, Counterpart::key(), now).rx_bytes, received + genuine.len() as u64);
    }
    let probe = std::iter::from_fn(|| device.poll_event()).find(|event| matches!(event, EngineEvent::Probe { .. }));
    match expected {
        Some((_, source)) if is_of_another(source) => {
            assert_eq!(device.drops(), Drops { source_refused: drops.source_refused + 1, ..drops });
            assert_eq!((device.poll_delivered(), probe), (None, None));
        }
        Some((inner, _)) if packet::is_between(inner, TAP) => {
            let event = EngineEvent::Probe { peer: Counterpart::key(), path: Path::Udp, packet: inner.to_vec() };
            assert_eq!((device.poll_delivered(), probe), (None, Some(event)));
        }
        Some((inner, _)) => {
            let mut clamped = inner.to_vec();
            clamp_mss(&mut clamped, MTU);
            assert_eq!((device.drops(), device.poll_delivered(), probe), (drops, Some(clamped), None));
        }
        None => assert_eq!((device.poll_delivered(), probe), (None, None)),
    }
    assert_eq!(state(device, Counterpart::key(), now).endpoint, Some(Counterpart::address()));
    refuse(device, from, &genuine, now);
    peer.check();
}

/// A cookie reply is accepted only unchanged, and only by the end that it was sent to: its next initiation passes a device under
/// load.
fn cookie(input: &mut Input<'_>, elsewhere: Option<SocketAddr>) {
    let (mut pair, from) = (Pair::new(), elsewhere.unwrap_or(address(1)));
    // That many handshakes a second are answered without a cookie.
    let gate = RateLimiter::new(&(*key(1).as_bytes()).into(), 0);
    let (initiation, mut buffer) = (pair.ask(), [0; 64]);
    let asked = gate.verify_packet(Some(address(0).ip()), &initiation, &mut buffer);
    let Err(TunnResult::WriteToNetwork(reply)) = asked else { panic!("no cookie reply") };
    let changed = changed(reply, input, &key(0));
    pair.refuse(1, from, reply);
    if changed == reply {
        let drops = pair.devices[0].drops();
        pair.devices[0].handle_datagram(from, &changed, pair.now);
        assert_eq!((pair.devices[0].drops(), pair.devices[0].poll_transmit()), (drops, None));
        assert_eq!(state(&pair.devices[0], key(1), pair.now).endpoint, Some(address(1)));
    } else {
        pair.refuse(0, from, &changed);
    }
    let next = pair.ask();
    assert_eq!(gate.verify_packet(Some(address(0).ip()), &next, &mut [0; 64]).is_ok(), changed == reply);
    pair.finish(&next);
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
        let mac = first_mac(&message[..end], receiver);
        message[end..end + 16].copy_from_slice(&mac);
    }
    message
}

fn is_handshake(datagram: &[u8]) -> bool {
    matches!((datagram.first_chunk(), datagram.len()), (Some([1, 0, 0, 0]), 148) | (Some([2, 0, 0, 0]), 92))
}

fn has_first_mac(datagram: &[u8], receiver: &PublicKey) -> bool {
    let macs = datagram.len().saturating_sub(32);
    is_handshake(datagram) && datagram[macs..macs + 16] == first_mac(&datagram[..macs], receiver)
}

/// The first MAC of a handshake message (WireGuard's paper, section 5.4.4).
fn first_mac(content: &[u8], receiver: &PublicKey) -> [u8; 16] {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize();
    let Ok(mac) = Blake2sMac::<U16>::new_from_slice(&key) else { unreachable!("BLAKE2s takes a key of 32 bytes") };
    mac.chain_update(content).finalize().into_bytes().into()
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
