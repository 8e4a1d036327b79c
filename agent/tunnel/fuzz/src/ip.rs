//! IP headers as the device reads them for its own decisions.

use std::net::IpAddr;

use mesh_offload::packet;

use super::packets::sum;

/// The first two bytes are an MTU, the rest an IP packet from the interface: its destination, its padding for that MTU and its ECN
/// mark.
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
    if packet::destination(packet).is_some() {
        congested(packet);
    }
}

/// The mark changes the two ECN bits where they say that the ends understand it, and keeps IPv4's checksum as right or
/// wrong as it was.
fn congested(packet: &[u8]) {
    let mut marked = packet.to_vec();
    packet::set_congested(&mut marked);
    let is_v4 = packet[0] >> 4 == 4;
    let mark = if is_v4 { 0x03 } else { 0x30 };
    let mut expected = packet.to_vec();
    if packet[1] & mark != 0 {
        expected[1] |= mark;
    }
    if is_v4 && expected != packet {
        assert_eq!(
            sum(&packet[..20]) == u16::MAX,
            sum(&marked[..20]) == u16::MAX,
            "{packet:02x?} became {marked:02x?}"
        );
        expected[10..12].copy_from_slice(&marked[10..12]);
    }
    assert_eq!(marked, expected);
}
