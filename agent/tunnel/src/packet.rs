//! What the device reads of the IP packets it carries: addresses and length, nothing more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let found = destination(&bytes);
            if let Some(IpAddr::V4(_)) = found { prop_assert!(bytes.len() >= 20); }
            if let Some(IpAddr::V6(_)) = found { prop_assert!(bytes.len() >= 40); }
        }
    }
}
