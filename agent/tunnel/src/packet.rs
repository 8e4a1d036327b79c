//! What the device reads of the IP packets it carries, addresses, length and ECN bits, and the one mark it makes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::offload::Sum;

/// Data is padded to a multiple of this before it is sealed (paper, section 5.4.6), so that lengths say less.
pub(crate) const PADDING: usize = 16;

/// The destination of an IP packet, or `None` where the bytes are not one.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => address_v4(packet, 16),
        6 if packet.len() >= 40 => address_v6(packet, 24),
        _ => None,
    }
}

/// The length of an IP packet, which what it lies in may exceed by padding, and its source; `None` where it is not one.
pub(crate) fn received(bytes: &[u8]) -> Option<(usize, IpAddr)> {
    let length = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes).map(usize::from);
    let (len, least, source) = match bytes.first()? >> 4 {
        4 => (length(2)?, 20, address_v4(bytes, 12)?),
        6 => (length(4)? + 40, 40, address_v6(bytes, 8)?),
        _ => return None,
    };
    (least..=bytes.len()).contains(&len).then_some((len, source))
}

fn address_v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn address_v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

/// The length to pad a packet of `len` bytes to: never beyond the MTU, so that padding makes no datagram too large.
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu.max(len))
}

/// ECN bits that say "there was congestion" (RFC 3168, section 5).
pub(crate) const CONGESTED: u8 = 3;

/// The ECN bits of a packet; 0, which says nothing, where the bytes are not one.
pub(crate) fn ecn(packet: &[u8]) -> u8 {
    match *packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & 3,
        _ => 0,
    }
}

/// Hands on that there was congestion outside, to a packet whose ends understand that; others stay as they are, as the
/// kernel's WireGuard leaves them. Whoever forges the mark could as well have lost the packet.
pub(crate) fn set_congested(packet: &mut [u8]) {
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
    fn congestion_is_told_to_those_who_listen() {
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
            let found = destination(&bytes);
            if let Some(IpAddr::V4(_)) = found { prop_assert!(bytes.len() >= 20); }
            if let Some(IpAddr::V6(_)) = found { prop_assert!(bytes.len() >= 40); }
        }
    }
}
