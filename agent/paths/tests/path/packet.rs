//! The packet that carries a message inside the tunnel: byte for byte, its checksums computed in another manner, and whatever else
//! may come.

use std::net::Ipv4Addr;

use mesh_paths::path::{
    LARGEST, PORT,
    packet::{build, parse},
};
use proptest::prelude::*;

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 7);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 200);

/// The Internet checksum as RFC 1071 has it in words: ones' complement addition, one word after the other.
fn checksum(words: impl IntoIterator<Item = u16>) -> u16 {
    !words.into_iter().fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])).collect()
}

/// Writes the header's checksum anew.
fn header_again(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let sum = checksum(words(&packet[..length]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn known_bytes() {
    let packet = build(A, B, b"mesh!");
    let expected = "4500 0021 0000 4000 4011 23fe 0a000107 0a0001c8 ca6f ca6f 000d 5258 6d65736821";
    assert_eq!(hex::encode(&packet), expected.replace(' ', ""));
    assert_eq!(PORT, 0xca6f);
    assert_eq!(parse(&packet), Some((A, B, &b"mesh!"[..])));
}

#[test]
fn refuses_what_it_did_not_write() {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = build(A, B, b"mesh!");
        change(&mut packet);
        header_again(&mut packet);
        parse(&packet).is_some()
    };
    assert!(changed(&|_| {}));
    assert!(changed(&|packet| packet.resize(48, 0)), "WireGuard's padding");
    assert!(changed(&|packet| packet[26..28].fill(0)), "no checksum");
    assert!(!changed(&|packet| packet[27] ^= 1), "a wrong one");
    assert!(!changed(&|packet| packet[30] ^= 1), "another payload");
    assert!(!changed(&|packet| packet[15] ^= 1), "another source");
    assert!(!changed(&|packet| packet[0] = 0x65), "IPv6");
    assert!(!changed(&|packet| packet[9] = 6), "TCP");
    assert!(!changed(&|packet| packet[6] = 0x20), "the first fragment");
    assert!(!changed(&|packet| packet[7] = 1), "a later fragment");
    assert!(!changed(&|packet| packet[3] += 1), "longer than it is");
    assert!(!changed(&|packet| packet[25] += 1), "a datagram longer than its packet");
    assert!(!changed(&|packet| (packet[25], packet[26], packet[27]) = (7, 0, 0)), "a datagram shorter than its header");
    assert!(!changed(&|packet| (packet[21], packet[26], packet[27]) = (0x70, 0, 0)), "another port");
    assert!(!changed(&|packet| (packet[23], packet[26], packet[27]) = (0x70, 0, 0)), "another port");
    let mut broken = build(A, B, b"mesh!");
    broken[8] -= 1;
    assert_eq!(parse(&broken), None, "a wrong checksum of the header");
    broken[0] = 0x44;
    assert_eq!(parse(&broken), None, "a header too short");
}

#[test]
fn no_longer_than_ip_can_say() {
    let packet = build(A, B, &vec![1; LARGEST + 100]);
    assert_eq!(packet.len(), 65_535);
    assert_eq!(parse(&packet).unwrap().2.len(), LARGEST);
}

proptest! {
    #[test]
    fn reads_what_it_writes_and_sums_are_right(
        source in any::<Ipv4Addr>(), destination in any::<Ipv4Addr>(),
        payload in proptest::collection::vec(any::<u8>(), 0..1500), padding in 0..16usize,
    ) {
        let mut packet = build(source, destination, &payload);
        prop_assert_eq!(checksum(words(&packet[..20])), 0);
        let length = u16::try_from(packet.len() - 20).unwrap();
        let pseudo = [words(&source.octets()), words(&destination.octets()), vec![17, length]].concat();
        prop_assert_eq!(checksum(words(&packet[20..]).into_iter().chain(pseudo)), 0);
        prop_assert!(packet[26..28] != [0, 0], "that would say that there is no checksum");
        packet.resize(packet.len() + padding, 0);
        prop_assert_eq!(parse(&packet), Some((source, destination, &payload[..])));
    }

    #[test]
    fn a_changed_byte_is_found(place in any::<prop::sample::Index>(), by in 1..=255u8) {
        let mut packet = build(A, B, b"something to change");
        let place = place.index(packet.len());
        packet[place] ^= by;
        prop_assert_eq!(parse(&packet), None);
    }

    #[test]
    fn reads_anything(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), sound in any::<bool>()) {
        if sound && bytes.len() >= 60 {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            (bytes[0], bytes[9]) = (0x45 | bytes[0] & 0xf, 17);
            bytes[2..4].copy_from_slice(&length);
            header_again(&mut bytes);
        }
        let _ = parse(&bytes);
    }
}
