//! The message about addresses: byte for byte, and whatever else may come.

use std::net::{IpAddr, SocketAddr};

use mesh_paths::punch::{CANDIDATES, LARGEST, Message, MessageKind, PunchError, is_message};
use proptest::prelude::*;

use crate::at;

fn call() -> Message {
    Message {
        kind: MessageKind::Call,
        lacks_direct: true,
        round: 0x0102_0304,
        candidates: vec![at("198.51.100.1:51820"), at("[2001:db8::7]:80")],
        seen: Some(at("192.0.2.3:256")),
    }
}

#[test]
fn known_bytes() {
    let bytes = call().encode();
    let expected = "6d736863 01 01 01 00 01020304 \
        01 06 c6336401 ca6c \
        01 12 20010db8000000000000000000000007 0050 \
        02 06 c0000203 0100";
    assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
    assert_eq!(Message::parse(&bytes), Ok(call()));
    let answer =
        Message { kind: MessageKind::Answer, lacks_direct: false, candidates: Vec::new(), seen: None, ..call() };
    assert_eq!(hex::encode(answer.encode()), "6d7368630102000001020304");
    assert_eq!(Message::parse(&answer.encode()), Ok(answer));
}

#[test]
fn refuses_what_it_cannot_read() {
    let changed = |at: usize, byte: u8| {
        let mut bytes = call().encode();
        bytes[at] = byte;
        Message::parse(&bytes)
    };
    let with = |tail: &[u8]| Message::parse(&[&call().encode(), tail].concat());
    let end = call().encode().len();
    assert_eq!(Message::parse(&[]), Err(PunchError::Length(0)));
    assert_eq!(Message::parse(&call().encode()[..11]), Err(PunchError::Length(11)));
    assert_eq!(Message::parse(&vec![0; LARGEST + 1]), Err(PunchError::Length(LARGEST + 1)));
    assert_eq!(changed(0, b'M'), Err(PunchError::Magic));
    assert_eq!(changed(4, 2), Err(PunchError::Version(2)));
    assert_eq!(changed(5, 0), Err(PunchError::Kind(0)));
    assert_eq!(changed(5, 3), Err(PunchError::Kind(3)));
    assert_eq!(changed(13, 5), Err(PunchError::Field(12)), "an address of three bytes");
    assert_eq!(changed(13, 255), Err(PunchError::Field(12)), "a field that goes on behind the end");
    assert_eq!(with(&[9]), Err(PunchError::Field(end)), "a field without a length");
    assert_eq!(with(&[9, 1]), Err(PunchError::Field(end)), "a field without its value");
    assert_eq!(with(&[1, 0]), Err(PunchError::Field(end)), "an address without bytes");
}

#[test]
fn skips_what_it_does_not_know() {
    let mut bytes = [&call().encode()[..], &[9, 3, 1, 2, 3], &[0, 0]].concat();
    (bytes[6], bytes[7]) = (0xff, 0xff);
    assert_eq!(Message::parse(&bytes), Ok(call()));
}

#[test]
fn no_more_than_eight_addresses() {
    let many = |count: u8| (0..count).map(|n| SocketAddr::new([192, 0, 2, n].into(), 1)).collect::<Vec<_>>();
    let message = |count| Message { candidates: many(count), ..call() };
    assert_eq!(CANDIDATES, 8);
    assert_eq!(Message::parse(&message(8).encode()), Ok(message(8)));
    assert_eq!(Message::parse(&message(200).encode()), Ok(message(8)), "of its own it sends the first");
    let nine = [&message(8).encode()[..], &[1, 6, 192, 0, 2, 9, 0, 1]].concat();
    assert_eq!(Message::parse(&nine), Err(PunchError::TooMany));
}

#[test]
fn told_apart_from_probes() {
    assert!(is_message(&call().encode()));
    let hearing = [None, None];
    let kind = mesh_paths::path::MessageKind::Request;
    let probe = mesh_paths::path::Message { kind, path: mesh_paths::path::PathKind::Direct, sequence: 1, hearing };
    assert!(!is_message(&probe.encode(0)));
    assert!(!is_message(b"msh"));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn message() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![Just(MessageKind::Call), Just(MessageKind::Answer)];
    let addresses = proptest::collection::vec(address(), 0..=CANDIDATES);
    (kind, any::<bool>(), any::<u32>(), addresses, proptest::option::of(address())).prop_map(
        |(kind, lacks_direct, round, candidates, seen)| Message { kind, lacks_direct, round, candidates, seen },
    )
}

proptest! {
    #[test]
    fn reads_what_it_writes(message in message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= LARGEST);
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn reads_anything(head in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let bytes = if head { [&call().encode()[..12], &bytes].concat() } else { bytes };
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.candidates.len() <= CANDIDATES);
            prop_assert_eq!(Message::parse(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn reads_a_broken_one(message in message(), place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = message.encode();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        let read = Message::parse(&bytes);
        prop_assert!(bytes.len() >= 12 || read == Err(PunchError::Length(bytes.len())));
    }
}
