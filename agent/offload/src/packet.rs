//! What a tunnel reads of the IP packets that it carries (addresses, length, ports, ECN bits), and the one mark that it sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;

/// The largest packet an interface can hand over, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// WireGuard pads a packet to a multiple of this many bytes before sealing it, so that lengths reveal less (section 5.4.6 of its
/// paper).
pub const PADDING: usize = 16;

/// The destination of an IP packet, or `None` where the bytes are not one. Of the header, only the version is checked.
#[inline]
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => address_v4(packet, 16),
        6 if packet.len() >= 40 => address_v6(packet, 24),
        _ => None,
    }
}

/// The length of an IP packet in bytes, as its header says, and its source. `bytes` may be longer by padding. `None` where they are
/// no IP packet, or shorter than its header says.
#[inline]
#[must_use]
pub fn received(bytes: &[u8]) -> Option<(usize, IpAddr)> {
    let length = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes).map(usize::from);
    let (len, least, source) = match bytes.first()? >> 4 {
        4 => (length(2)?, 20, address_v4(bytes, 12)?),
        6 => (length(4)? + 40, 40, address_v6(bytes, 8)?),
        _ => return None,
    };
    (least..=bytes.len()).contains(&len).then_some((len, source))
}

#[inline]
fn address_v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

#[inline]
fn address_v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

/// Source and destination port of a UDP packet over IPv4, and whether it is a whole packet. The first fragment of one has its ports
/// too.
#[inline]
fn udp_v4(packet: &[u8]) -> Option<(u16, u16, bool)> {
    const UDP: u8 = 17;
    let header = packet.first_chunk::<20>().filter(|header| header[0] >> 4 == 4 && header[9] == UDP)?;
    let ports = packet.get(usize::from(header[0] & 0x0f) * 4..)?.first_chunk::<4>()?;
    // More fragments, and where this one begins (RFC 791): only the first has the ports.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    (fragment & 0x1fff == 0).then(|| (port(0), port(2), fragment == 0))
}

/// Whether it is a whole UDP packet over IPv4 from this port to the same.
#[inline]
#[must_use]
pub fn is_between(packet: &[u8], port: u16) -> bool {
    udp_v4(packet) == Some((port, port, true))
}

/// Whether it is a UDP packet over IPv4 from this port to the same, or the first fragment of one: without that fragment, the
/// receiver cannot reassemble the others.
#[inline]
#[must_use]
pub fn begins_between(packet: &[u8], port: u16) -> bool {
    udp_v4(packet).is_some_and(|(source, destination, _)| source == port && destination == port)
}

/// Whether a datagram may be a message of STUN: two bits of zeros, and the magic cookie behind type and length (RFC 8489,
/// section 5).
#[inline]
#[must_use]
pub fn may_be_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] & 0xc0 == 0 && datagram[4..8] == [0x21, 0x12, 0xa4, 0x42]
}

/// The length to pad a packet of `len` bytes to: never beyond the MTU, so that padding makes no datagram too large. A packet longer
/// than `mtu` gets no padding.
#[inline]
#[must_use]
pub fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu.max(len))
}

/// The ECN bits "congestion experienced" (RFC 3168, section 5).
pub const CONGESTED: u8 = 3;

/// The two ECN bits of an IP packet; 0 ("not ECN-capable") where the bytes are not one.
#[inline]
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    match *packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & 3,
        _ => 0,
    }
}

/// Marks a packet with [`CONGESTED`], because the datagram that carried it was marked. A packet whose ends do not support ECN stays
/// as it is, as with the kernel's WireGuard. The outer mark is not authenticated, which is acceptable: an attacker who can set it
/// could as well drop the datagram.
pub fn set_congested(packet: &mut [u8]) {
    if matches!(ecn(packet), 0 | CONGESTED) {
        return;
    }
    if packet[0] >> 4 == 6 {
        packet[1] |= CONGESTED << 4;
    } else if let [version, tos, _, _, _, _, _, _, _, _, sum, more, ..] = packet {
        let old = [*version, *tos];
        *tos |= CONGESTED;
        // RFC 1624, equation 3.
        let changed = Sum::without([*sum, *more]) + Sum::without(old) + Sum::word([*version, *tos]);
        [*sum, *more] = changed.checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn destinations_of_both_families() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[16..].copy_from_slice(&[10, 0, 1, 7]);
        assert_eq!(destination(&v4), Some("10.0.1.7".parse().unwrap()));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[39] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        assert_eq!(destination(&v6[..39]), None);
        assert_eq!(destination(&v4[..19]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn padding_stops_at_the_mtu() {
        assert_eq!(padded_len(1, 1420), 16);
        assert_eq!(padded_len(16, 1420), 16);
        assert_eq!(padded_len(1409, 1420), 1420);
        assert_eq!(padded_len(1430, 1420), 1430, "a packet beyond a stale MTU stays as it is");
    }

    #[test]
    fn only_packets_that_support_ecn_are_marked() {
        for (before, after) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            for dscp in [0, 0b1011_1000] {
                let mut v6 = [0; 40];
                (v6[0], v6[1]) = (0x60 | dscp >> 4, (dscp << 4) | before << 4 | 0x0f);
                let mut expected = v6;
                expected[1] = (dscp << 4) | after << 4 | 0x0f;
                assert_eq!(ecn(&v6), before);
                set_congested(&mut v6);
                assert_eq!(v6, expected);
            }
        }
    }

    #[test]
    fn ports_are_those_of_udp_over_ipv4() {
        let packet = |fragment: u16, protocol: u8, options: usize| {
            let mut packet = vec![0; 20 + options + 8];
            (packet[0], packet[9]) = (0x45 + (options / 4) as u8, protocol);
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
            packet[20 + options..][..4].copy_from_slice(&[0xca, 0x6f, 0, 7]);
            packet
        };
        for options in [0, 4, 40] {
            let mut whole = packet(0x4000, 17, options);
            for port in [51823, 7, 8] {
                assert!(!begins_between(&whole, port) && !is_between(&whole, port), "one of the two is not enough");
            }
            whole.copy_within(20 + options..22 + options, 22 + options);
            assert!(begins_between(&whole, 51823) && !begins_between(&whole, 7));
            assert!(is_between(&whole, 51823) && !is_between(&whole[..23 + options], 51823));
        }
        let between = |fragment: u16, protocol: u8| {
            let mut packet = packet(fragment, protocol, 0);
            packet.copy_within(20..22, 22);
            packet
        };
        let first = between(0x2000, 17);
        assert!(begins_between(&first, 51823), "the first fragment");
        assert!(!is_between(&first, 51823), "it is not whole");
        assert!(!begins_between(&between(0x2001, 17), 51823), "a later fragment has no ports");
        assert!(!begins_between(&between(0, 6), 51823), "TCP");
        assert!(!begins_between(&[0x60; 60], 0x6060), "IPv6");
    }

    #[test]
    fn stun_has_its_cookie() {
        let mut message = [0; 20];
        message[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert!(may_be_stun(&message) && !may_be_stun(&message[..19]));
        message[0] = 0x40;
        assert!(!may_be_stun(&message));
    }

    proptest! {
        #[test]
        fn congestion_keeps_the_header_checksum(mut packet in prop::array::uniform20(any::<u8>()), ecn_bits in 0..4_u8) {
            (packet[0], packet[1]) = (0x45, packet[1] & !3 | ecn_bits);
            let sum = |packet: &[u8]| {
                let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
                (sum & 0xffff) + (sum >> 16)
            };
            packet[10..12].fill(0);
            let checksum = sum(&packet);
            let checksum = !((checksum & 0xffff) + (checksum >> 16)) as u16;
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            let before = packet;
            set_congested(&mut packet);
            prop_assert_eq!(sum(&packet), 0xffff);
            prop_assert_eq!(packet[1] & 3, if ecn_bits == 0 { 0 } else { CONGESTED });
            prop_assert_eq!(packet[1] & !3, before[1] & !3);
            prop_assert_eq!((&packet[2..10], &packet[12..]), (&before[2..10], &before[12..]));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            set_congested(&mut bytes.clone());
            prop_assert!(!is_between(&bytes, 7) || begins_between(&bytes, 7));
            prop_assert!(!may_be_stun(&bytes) || bytes.len() >= 20);
            let found = destination(&bytes);
            if let Some(IpAddr::V4(_)) = found { prop_assert!(bytes.len() >= 20); }
            if let Some(IpAddr::V6(_)) = found { prop_assert!(bytes.len() >= 40); }
        }
    }
}
