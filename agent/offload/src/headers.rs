//! Where the TCP or UDP header of an IP packet is.

use crate::checksum::Sum;

pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
pub(crate) const UDP_LEN: usize = 8;

/// Offsets of what is read and written here, in an IPv4 header.
pub(crate) mod v4 {
    pub(crate) const TOTAL_LEN: usize = 2;
    pub(crate) const ID: usize = 4;
    /// And the fragment's place; hop limit and protocol follow.
    pub(crate) const FLAGS: usize = 6;
    pub(crate) const CHECKSUM: usize = 10;

    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
    pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
    /// Where a fragment begins in the whole, in units of eight bytes.
    pub(crate) const OFFSET: u16 = 0x1fff;
}

/// Offsets in an IPv6 header.
pub(crate) mod v6 {
    pub(crate) const PAYLOAD_LEN: usize = 4;
    /// The next header; the hop limit follows.
    pub(crate) const NEXT: usize = 6;
}

/// Offsets and flags in a TCP header.
pub(crate) mod tcp {
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGED: usize = 8;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
    pub(crate) const URGENT: usize = 18;
    pub(crate) const OPTIONS: usize = 20;

    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const URG: u8 = 0x20;
    pub(crate) const CWR: u8 = 0x80;
}

/// Offsets in a UDP header.
pub(crate) mod udp {
    pub(crate) const LEN: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where its checksum is, from the beginning of its header.
    pub(crate) const fn checksum(self) -> usize {
        match self {
            Self::Tcp => tcp::CHECKSUM,
            Self::Udp => udp::CHECKSUM,
        }
    }
}

/// The position of a packet's TCP or UDP header, all of which lies within the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    /// Whether the packet is the first fragment of a longer one.
    pub(crate) fragment: bool,
    /// Where the header begins: behind IPv4 options and IPv6 extension headers.
    pub(crate) start: usize,
    /// Where the payload begins: behind TCP options, at most at the end of the packet.
    pub(crate) payload: usize,
}

impl Transport {
    /// The header of `packet`, or `None` where the packet has none: another protocol, not the first fragment, no IP packet at all,
    /// or cut off in its headers. The length fields of the IP header are not checked.
    pub(crate) fn find(packet: &[u8]) -> Option<Self> {
        let (family, Place { start, protocol, fragment }) = match packet.first()? >> 4 {
            4 => (Family::V4, behind_v4(packet)?),
            6 => (Family::V6, behind_v6(packet)?),
            _ => return None,
        };
        let (protocol, len) = match protocol {
            6 => (Protocol::Tcp, usize::from(packet.get(start + 12)? >> 4) * 4),
            17 => (Protocol::Udp, UDP_LEN),
            _ => return None,
        };
        let payload = start + len;
        let whole = payload <= packet.len() && (protocol == Protocol::Udp || len >= tcp::OPTIONS);
        whole.then_some(Self { family, protocol, fragment, start, payload })
    }

    /// The sum of the pseudo header but for its length. `packet` is the one the header was found in.
    pub(crate) fn pseudo_header(&self, packet: &[u8]) -> Sum {
        let addresses = match self.family {
            Family::V4 => Sum::of_few(&array::<8>(packet, 12)),
            Family::V6 => Sum::of_few(&array::<32>(packet, 8)),
        };
        addresses + Sum::number(self.protocol.number().into())
    }
}

/// The bytes of a field, which must lie within the packet.
pub(crate) fn array<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&packet[at..at + N]);
    bytes
}

/// A field of 16 bits.
pub(crate) fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(packet, at))
}

/// A field of 32 bits.
pub(crate) fn double_word(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(packet, at))
}

/// Writes a field, which must lie within the packet.
pub(crate) fn put<const N: usize>(packet: &mut [u8], at: usize, bytes: [u8; N]) {
    packet[at..at + N].copy_from_slice(&bytes);
}

struct Place {
    start: usize,
    protocol: u8,
    fragment: bool,
}

fn behind_v4(packet: &[u8]) -> Option<Place> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    let start = usize::from(header[0] & 0x0f) * 4;
    let fragment = word(header, v4::FLAGS) & (v4::MORE_FRAGMENTS | v4::OFFSET);
    let (more, offset) = (fragment & v4::MORE_FRAGMENTS != 0, fragment & v4::OFFSET);
    (start >= IPV4_LEN && offset == 0).then_some(Place { start, protocol: header[9], fragment: more })
}

/// Walks over the extension headers that may stand in front of TCP and UDP (RFC 8200, section 4).
fn behind_v6(packet: &[u8]) -> Option<Place> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    let header = packet.first_chunk::<IPV6_LEN>()?;
    let mut place = Place { start: IPV6_LEN, protocol: header[6], fragment: false };
    while let HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT = place.protocol {
        let header = packet.get(place.start..)?.first_chunk::<8>()?;
        if place.protocol == FRAGMENT {
            if u16::from_be_bytes([header[2], header[3]]) >> 3 != 0 {
                return None;
            }
            place.fragment = true;
            place.start += 8;
        } else {
            place.start += (usize::from(header[1]) + 1) * 8;
        }
        place.protocol = header[0];
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV6_LEN];
        packet[0] = 0x60;
        packet[6] = next;
        packet.extend(rest);
        packet
    }

    #[test]
    fn behind_options_and_extension_headers() {
        let mut packet = vec![0; 24 + 8 + 3];
        packet[0] = 0x46;
        packet[9] = 17;
        let found = Transport::find(&packet).unwrap();
        assert_eq!((found.family, found.protocol, found.start, found.payload), (Family::V4, Protocol::Udp, 24, 32));

        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop, then
        rest.extend([6, 1].iter().chain(&[0; 14])); // 16 bytes of destination options, then
        rest.extend([0; 12].iter().chain(&[0x80]).chain(&[0; 19])); // TCP with 12 bytes of options
        let found = Transport::find(&v6(0, &rest)).unwrap();
        assert_eq!((found.protocol, found.start, found.payload), (Protocol::Tcp, 64, 96));
        rest.pop();
        assert_eq!(Transport::find(&v6(0, &rest)), None, "TCP options beyond the packet");
    }

    #[test]
    fn a_header_that_says_it_is_shorter_than_any_is_none() {
        let mut packet = [0; 60];
        packet[9] = 17;
        packet[0] = 0x45;
        assert!(Transport::find(&packet).is_some());
        packet[0] = 0x44;
        assert_eq!(Transport::find(&packet), None);
    }

    #[test]
    fn of_fragments_only_the_first_has_it() {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[9] = 17;
        packet[6] = 0x40;
        assert!(!Transport::find(&packet).unwrap().fragment, "don't fragment");
        packet[6] = 0x20;
        assert!(Transport::find(&packet).unwrap().fragment);
        packet[7] = 1;
        assert_eq!(Transport::find(&packet), None);

        let mut rest = [0; 16];
        rest[0] = 17;
        rest[3] = 1;
        assert!(Transport::find(&v6(44, &rest)).unwrap().fragment);
        rest[3] = 8;
        assert_eq!(Transport::find(&v6(44, &rest)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            first in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]),
            next in prop::sample::select(vec![0, 6, 17, 43, 44, 60]),
            mut bytes in prop::collection::vec(prop::sample::select(vec![0, 1, 6, 17, 44, 60, 0x50, 0xff]), 0..120),
        ) {
            if bytes.len() > 9 {
                bytes[0] = first;
                bytes[6] = next;
                bytes[9] = next;
            }
            if let Some(found) = Transport::find(&bytes) {
                prop_assert!(found.start < found.payload && found.payload <= bytes.len());
            }
        }
    }
}
