//! The header in front of every packet of an interface that carries superpackets: `struct virtio_net_hdr` of
//! `linux/virtio_net.h`, in the byte order of this machine, as a TUN gives it without `TUNSETVNETLE`.

use std::num::NonZeroU16;

use crate::split::Malformed;

/// The length of the header in bytes.
pub const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Beside a TCP kind: the first segment has CWR set. The packet itself says so too.
const GSO_ECN: u8 = 0x80;

/// What is still to be done with the packet behind it: complete a checksum, cut it into several packets, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    /// Where a checksum is to be completed. `None`: the packet is complete.
    pub checksum: Option<PartialChecksum>,
    /// How the packet is to be cut. `None`: it is a single packet.
    pub gso: Option<Gso>,
    /// Length of all headers of a superpacket, in bytes. The kernel takes it as a hint and gives wrong ones with forwarded
    /// packets, so it is written and never read.
    pub header_len: u16,
}

/// A checksum field that holds the sum of the pseudo header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where summing begins, in bytes from the beginning of the packet; it ends with the packet.
    pub start: u16,
    /// Where the field is, in bytes from `start`.
    pub offset: u16,
}

/// How a superpacket is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol of its packets.
    pub kind: GsoKind,
    /// Payload of each packet in bytes; the last may have less.
    pub size: NonZeroU16,
}

/// What a superpacket consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

impl VnetHeader {
    /// The header of a single, complete packet.
    pub const PLAIN: Self = Self { checksum: None, gso: None, header_len: 0 };

    /// Reads a header. Flags that only say what the kernel has checked already (`DATA_VALID`) are ignored.
    ///
    /// # Errors
    /// [`Malformed::Kind`] where it asks for a kind of cutting that is none of [`GsoKind`], [`Malformed::Size`] where it asks for
    /// packets without payload.
    #[inline]
    pub fn parse(bytes: &[u8; VNET_LEN]) -> Result<Self, Malformed> {
        let [flags, kind, header_len @ .., _, _, _, _, _, _] = *bytes;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(GsoKind::TcpV4),
            GSO_TCPV6 => Some(GsoKind::TcpV6),
            GSO_UDP_L4 => Some(GsoKind::Udp),
            kind => return Err(Malformed::Kind { kind }),
        };
        let gso = match gso {
            Some(kind) => Some(Gso { kind, size: NonZeroU16::new(word(4)).ok_or(Malformed::Size)? }),
            None => None,
        };
        let partial = PartialChecksum { start: word(6), offset: word(8) };
        let checksum = (flags & NEEDS_CSUM != 0).then_some(partial);
        Ok(Self { checksum, gso, header_len: u16::from_ne_bytes(header_len) })
    }

    /// The header as the interface takes it.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_LEN] {
        let kind = match self.gso.map(|gso| gso.kind) {
            None => GSO_NONE,
            Some(GsoKind::TcpV4) => GSO_TCPV4,
            Some(GsoKind::TcpV6) => GSO_TCPV6,
            Some(GsoKind::Udp) => GSO_UDP_L4,
        };
        let partial = self.checksum.unwrap_or(PartialChecksum { start: 0, offset: 0 });
        let mut bytes = [0; VNET_LEN];
        bytes[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = kind;
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso.map_or(0, |gso| gso.size.get()).to_ne_bytes());
        bytes[6..8].copy_from_slice(&partial.start.to_ne_bytes());
        bytes[8..].copy_from_slice(&partial.offset.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_of_the_kernel_for_45_tcp_segments() {
        let mut bytes = [1, 1, 52, 0, 0x64, 5, 20, 0, 16, 0];
        if cfg!(target_endian = "big") {
            bytes[2..].as_chunks_mut::<2>().0.iter_mut().for_each(|word| word.reverse());
        }
        let header = VnetHeader::parse(&bytes).unwrap();
        assert_eq!(header.checksum, Some(PartialChecksum { start: 20, offset: 16 }));
        assert_eq!(header.gso.map(|gso| (gso.kind, gso.size.get())), Some((GsoKind::TcpV4, 1380)));
        assert_eq!(header.encode(), bytes);
        bytes[1] |= GSO_ECN;
        assert_eq!(VnetHeader::parse(&bytes), Ok(header), "the packet itself has CWR");
    }

    #[test]
    fn what_was_never_offered_is_refused() {
        let plain = [0; VNET_LEN];
        assert_eq!(VnetHeader::parse(&plain), Ok(VnetHeader::PLAIN));
        assert_eq!(VnetHeader::PLAIN.encode(), plain);
        for kind in [2, 3, 6, 0x7f] {
            assert_eq!(VnetHeader::parse(&[0, kind, 0, 0, 9, 9, 0, 0, 0, 0]), Err(Malformed::Kind { kind }));
        }
        assert_eq!(VnetHeader::parse(&[0, GSO_TCPV6, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::Size));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(bytes in any::<[u8; VNET_LEN]>()) {
            if let Ok(header) = VnetHeader::parse(&bytes) {
                prop_assert_eq!(VnetHeader::parse(&header.encode()), Ok(header));
            }
        }
    }
}
