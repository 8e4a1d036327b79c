//! STUN: the test vectors of RFC 5769, and whatever else may come.

use std::net::{IpAddr, SocketAddr};

use mesh_paths::stun::{HEAD, StunError, request, response};
use proptest::prelude::*;

use crate::at;

const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.split_whitespace().collect::<String>()).unwrap()
}

/// RFC 5769, section 2.2.
fn ipv4() -> Vec<u8> {
    bytes(
        "0101003c 2112a442 b7e7a701bc34d686fa87dfae
         8022000b 7465737420766563746f7220
         00200008 0001a147e112a643
         00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
         80280004 c07d4c96",
    )
}

/// RFC 5769, section 2.3.
fn ipv6() -> Vec<u8> {
    bytes(
        "01010048 2112a442 b7e7a701bc34d686fa87dfae
         8022000b 7465737420766563746f7220
         00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9
         00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
         80280004 c8fb0b4c",
    )
}

/// An answer with these attributes, each padded.
fn answer(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = request(TRANSACTION).to_vec();
    message[..2].copy_from_slice(&kind.to_be_bytes());
    for (attribute, value) in attributes {
        message.extend_from_slice(&attribute.to_be_bytes());
        message.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        message.extend_from_slice(value);
        message.resize(message.len().next_multiple_of(4), 0x20);
    }
    let length = u16::try_from(message.len() - HEAD).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

#[test]
fn the_answers_of_the_rfc() {
    assert_eq!(response(&ipv4(), TRANSACTION), Ok(at("192.0.2.1:32853")));
    assert_eq!(response(&ipv6(), TRANSACTION), Ok(at("[2001:db8:1234:5678:11:2233:4455:6677]:32853")));
}

#[test]
fn a_request_byte_for_byte() {
    assert_eq!(hex::encode(request(TRANSACTION)), "000100002112a442b7e7a701bc34d686fa87dfae");
}

#[test]
fn refuses_what_is_no_answer_to_it() {
    let changed = |at: usize, byte: u8| {
        let mut bytes = ipv4();
        bytes[at] = byte;
        response(&bytes, TRANSACTION)
    };
    assert_eq!(response(&[], TRANSACTION), Err(StunError::Transaction));
    assert_eq!(response(&ipv4()[..HEAD - 1], TRANSACTION), Err(StunError::Transaction));
    assert_eq!(response(&ipv4()[..76], TRANSACTION), Err(StunError::Form), "shorter than it says");
    assert_eq!(response(&[&ipv4()[..], &[0; 4]].concat(), TRANSACTION), Err(StunError::Form), "longer than it says");
    assert_eq!(changed(3, 0x3b), Err(StunError::Form), "no whole words");
    assert_eq!(changed(4, 0x20), Err(StunError::Form), "another cookie");
    assert_eq!(changed(0, 0x81), Err(StunError::Form), "the first two bits");
    assert_eq!(changed(0, 0x00), Err(StunError::Type(0x0001)), "a request");
    assert_eq!(changed(1, 0x11), Err(StunError::Refused(0)), "an error without a code");
    assert_eq!(changed(19, 0xaf), Err(StunError::Transaction));
    let of_another_request = [&[1, 0x11, 0, 1, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12], &[0xff; 9]].concat();
    assert_eq!(
        response(&of_another_request, TRANSACTION),
        Err(StunError::Transaction),
        "before anything else is looked at"
    );
    assert_eq!(changed(23, 0xff), Err(StunError::Attribute(0x8022)), "an attribute that goes on behind the end");
    assert_eq!(changed(41, 3), Err(StunError::Attribute(0x0020)), "an address family that there is not");
    assert_eq!(changed(41, 2), Err(StunError::Attribute(0x0020)), "an IPv6 address of four bytes");
    assert_eq!(changed(37, 0x21), Err(StunError::NoAddress));
}

#[test]
fn an_old_servers_answer() {
    let plain: &[u8] = &[0, 1, 0x80, 0x55, 192, 0, 2, 7];
    let masked: &[u8] = &[0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
    assert_eq!(response(&answer(0x0101, &[(0x0001, plain)]), TRANSACTION), Ok(at("192.0.2.7:32853")));
    let both = answer(0x0101, &[(0x0001, plain), (0x0020, masked)]);
    assert_eq!(response(&both, TRANSACTION), Ok(at("192.0.2.1:32853")), "the masked one, that no NAT has rewritten");
}

#[test]
fn a_refusal_says_its_code() {
    let refusal = answer(0x0111, &[(0x0009, b"\0\0\x04\x14Unknown attribute"), (0x000a, &[0, 3])]);
    assert_eq!(response(&refusal, TRANSACTION), Err(StunError::Refused(420)));
}

proptest! {
    #[test]
    fn reads_any_masked_address(ip in any::<IpAddr>(), port in any::<u16>(), transaction in any::<[u8; 12]>()) {
        let mut mask = bytes("2112a442");
        mask.extend_from_slice(&transaction);
        let octets = match ip { IpAddr::V4(ip) => ip.octets().to_vec(), IpAddr::V6(ip) => ip.octets().to_vec() };
        let mut value = vec![0, if ip.is_ipv4() { 1 } else { 2 }, (port >> 8) as u8 ^ 0x21, port as u8 ^ 0x12];
        value.extend(octets.iter().zip(&mask).map(|(octet, mask)| octet ^ mask));
        let mut message = answer(0x0101, &[(0x8022, b"odd"), (0x0020, &value)]);
        message[8..20].copy_from_slice(&transaction);
        prop_assert_eq!(response(&message, transaction), Ok(SocketAddr::new(ip, port)));
    }

    #[test]
    fn reads_anything(head in any::<bool>(), mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if head {
            bytes.truncate(bytes.len() / 4 * 4);
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes = [&[1, 1], &length[..], &ipv4()[4..20], &bytes].concat();
        }
        let read = response(&bytes, TRANSACTION);
        prop_assert!(!head || !matches!(read, Err(StunError::Form | StunError::Transaction)));
    }

    #[test]
    fn reads_a_broken_one(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = ipv6();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let _ = response(&bytes, TRANSACTION);
    }
}
