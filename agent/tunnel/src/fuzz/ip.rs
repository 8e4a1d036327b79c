//! IP headers as the device reads them for its own decisions.

use std::net::IpAddr;

use crate::packet;

/// An IP packet from the interface, and the padding it gets for an MTU, which the first two bytes are.
pub fn ip(input: &[u8]) {
    let Some((mtu, packet)) = input.split_first_chunk() else { return };
    let mtu = usize::from(u16::from_be_bytes(*mtu));
    match packet::destination(packet) {
        Some(IpAddr::V4(address)) => assert_eq!((packet[0] >> 4, &packet[16..20]), (4, &address.octets()[..])),
        Some(IpAddr::V6(address)) => assert_eq!((packet[0] >> 4, &packet[24..40]), (6, &address.octets()[..])),
        None => assert!(packet.len() < 40 || !matches!(packet[0] >> 4, 4 | 6), "an IP packet without a destination"),
    }
    let padded = packet::padded_len(packet.len(), mtu);
    assert!((packet.len()..packet.len() + 16).contains(&padded));
    assert!(padded == packet.len() || padded <= mtu, "padded beyond the MTU");
    assert!(padded.is_multiple_of(16) || padded >= mtu, "not padded");
}
