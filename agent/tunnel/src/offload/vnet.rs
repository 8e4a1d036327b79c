//! The header in front of every packet of an interface that carries superpackets: `struct virtio_net_hdr` of
//! `linux/virtio_net.h`, in the byte order of this machine, as a TUN gives it without `TUNSETVNETLE`.

use std::num::NonZeroU16;

use super::split::Malformed;

/// The length of the header in bytes.
pub(crate) const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Beside a TCP kind: the first segment has CWR set. The packet itself says so too.
const GSO_ECN: u8 = 0x80;

/// How a packet is to be finished and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// Where a checksum is to be completed. `None`: the packet is complete.
    pub(crate) checksum: Option<PartialChecksum>,
    /// `None`: one packet.
    pub(crate) gso: Option<Gso>,
    /// Length of all headers of a superpacket: a hint, wrong on forwarded packets, so that it is written and never read.
    pub(crate) header_len: u16,
}

/// A checksum field that holds the sum of the pseudo header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartialChecksum {
    /// From where to the end the packet is summed, in bytes from its beginning.
    pub(crate) start: u16,
    /// Where the field is, in bytes from `start`.
    pub(crate) offset: u16,
}

/// How a superpacket is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gso {
    pub(crate) kind: GsoKind,
    /// Payload of each packet but the last, which may have less.
    pub(crate) size: NonZeroU16,
}

/// What a superpacket consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GsoKind {
    TcpV4,
    TcpV6,
    Udp,
}

impl VnetHeader {
    /// In front of one complete packet.
    pub(crate) const PLAIN: Self = Self { checksum: None, gso: None, header_len: 0 };

    /// Reads a header. Flags that only promise something (`DATA_VALID`) are left aside.
    ///
    /// # Errors
    /// Where the header asks to cut in a way that was never offered to the kernel, or into pieces of nothing.
    pub(crate) fn parse(bytes: &[u8; VNET_LEN]) -> Result<Self, Malformed> {
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
    pub(crate) fn encode(&self) -> [u8; VNET_LEN] {
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
        assert_eq!(VnetHeader::parse(&bytes), Ok(header), "the packet itself tells of CWR");
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
