//! What stands in front of packets on the link to the device: which checksum is still to be completed, and how a superpacket is cut.

use std::num::NonZeroU16;

use mesh_offload::{Gso, GsoKind, PartialChecksum, VNET_LEN, VnetHeader};
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber};

/// Where the checksum is in a TCP header, in bytes (RFC 9293).
const TCP_CHECKSUM: u16 = 16;

/// A packet of the device's behind its header; `None` where it is no IPv4 packet, or its TCP checksum is wrong. The checksums of what
/// the device joined were right.
pub(crate) fn incoming(read: &[u8]) -> Option<&[u8]> {
    let (header, packet) = read.split_first_chunk::<VNET_LEN>()?;
    let header = VnetHeader::parse(header).ok()?;
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.next_header() == IpProtocol::Tcp && header.checksum.is_none() {
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let (source, destination) = (IpAddress::Ipv4(ip.src_addr()), IpAddress::Ipv4(ip.dst_addr()));
        tcp.verify_checksum(&source, &destination).then_some(packet)
    } else {
        Some(packet)
    }
}

/// The header for a packet of the stack's. The checksum of TCP, which the stack leaves out, is begun here and completed by the device
/// for each packet that it is cut into; `segment` is the payload of each.
pub(crate) fn outgoing(packet: &mut [u8], segment: Option<NonZeroU16>) -> [u8; VNET_LEN] {
    let Ok(ip) = Ipv4Packet::new_checked(&*packet) else { return VnetHeader::PLAIN.encode() };
    if ip.next_header() != IpProtocol::Tcp {
        return VnetHeader::PLAIN.encode();
    }
    let start = u16::from(ip.header_len());
    let from = usize::from(start);
    let (len, sum) = (packet.len() - from, pseudo_header(&ip));
    let mut tcp = TcpPacket::new_unchecked(&mut packet[from..]);
    tcp.set_checksum(sum);
    let header_len = start + u16::from(tcp.header_len());
    let gso = segment.filter(|segment| len > usize::from(segment.get()) + usize::from(tcp.header_len()));
    VnetHeader {
        checksum: Some(PartialChecksum { start, offset: TCP_CHECKSUM }),
        gso: gso.map(|size| Gso { kind: GsoKind::TcpV4, size }),
        header_len,
    }
    .encode()
}

/// The sum over addresses, protocol and length (RFC 9293, section 3.1), folded and not inverted: as the kernel leaves it.
fn pseudo_header(ip: &Ipv4Packet<&[u8]>) -> u16 {
    let [source, destination] = [ip.src_addr(), ip.dst_addr()].map(u32::from);
    let halves = |address: u32| (address >> 16) + (address & 0xffff);
    let len = ip.total_len() - u16::from(ip.header_len());
    let sum = halves(source) + halves(destination) + u32::from(u8::from(IpProtocol::Tcp)) + u32::from(len);
    let folded = (sum >> 16) + (sum & 0xffff);
    ((folded >> 16) + (folded & 0xffff)) as u16
}

/// Changes the acknowledgement number of a segment that has one. Its checksum is wrong afterwards.
pub(crate) fn set_acknowledgement(packet: &mut [u8], number: u32) {
    let header_len = Ipv4Packet::new_unchecked(&*packet).header_len();
    let mut tcp = TcpPacket::new_unchecked(&mut packet[header_len.into()..]);
    tcp.set_ack_number(TcpSeqNumber(number.cast_signed()));
}

/// A connection's first packet, that is to be listened for: where it comes from and the port that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FirstPacket {
    pub(crate) from: std::net::SocketAddrV4,
    pub(crate) to: std::net::SocketAddrV4,
}

/// `None` where it is any other packet.
pub(crate) fn first_packet(packet: &[u8]) -> Option<FirstPacket> {
    let ip = Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
    let is_whole = !ip.more_frags() && ip.frag_offset() == 0;
    let tcp = TcpPacket::new_checked(ip.payload()).ok().filter(|_| is_whole)?;
    let begins = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
    begins.then(|| FirstPacket {
        from: std::net::SocketAddrV4::new(ip.src_addr(), tcp.src_port()),
        to: std::net::SocketAddrV4::new(ip.dst_addr(), tcp.dst_port()),
    })
}

#[cfg(test)]
mod tests {
    use mesh_offload::Outgoing;
    use proptest::prelude::*;
    use smoltcp::{
        phy::ChecksumCapabilities,
        wire::{Ipv4Repr, TcpControl, TcpRepr},
    };

    use super::*;

    fn segment(payload: &[u8], control: TcpControl) -> Vec<u8> {
        let (src_addr, dst_addr) = ([10, 0, 1, 2].into(), [10, 0, 1, 3].into());
        let tcp = TcpRepr {
            src_port: 40_000,
            dst_port: 6379,
            control,
            seq_number: TcpSeqNumber(7),
            ack_number: (control != TcpControl::Syn).then_some(TcpSeqNumber(9)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let next_header = IpProtocol::Tcp;
        let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: tcp.buffer_len(), hop_limit: 64 };
        let mut bytes = vec![0; ip.buffer_len() + tcp.buffer_len()];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        let mut inner = TcpPacket::new_unchecked(packet.payload_mut());
        tcp.emit(&mut inner, &src_addr.into(), &dst_addr.into(), &ChecksumCapabilities::ignored());
        bytes
    }

    /// As the device does.
    fn cut(header: &[u8; VNET_LEN], mut packet: Vec<u8>) -> Vec<Vec<u8>> {
        let outgoing = Outgoing::parse(&VnetHeader::parse(header).unwrap(), &mut packet).unwrap();
        let write = |index| {
            let mut out = vec![0; outgoing.longest()];
            let len = outgoing.write(index, &mut out);
            out.truncate(len);
            out
        };
        (0..outgoing.count()).map(write).collect()
    }

    fn plain(packet: &[u8]) -> Vec<u8> {
        [&VnetHeader::PLAIN.encode(), packet].concat()
    }

    proptest! {
        #[test]
        fn what_the_device_completes_has_right_checksums(
            payload in prop::collection::vec(any::<u8>(), 0..9000), size in prop::option::of(100..1380_u16),
        ) {
            let mut packet = segment(&payload, TcpControl::None);
            let header = outgoing(&mut packet, size.and_then(NonZeroU16::new));
            let pieces = cut(&header, packet);
            let expected = size.map_or(1, |size| payload.len().div_ceil(size.into()).max(1));
            prop_assert_eq!(pieces.len(), expected);
            let mut whole = Vec::new();
            for piece in &pieces {
                let read = plain(piece);
                let packet = incoming(&read).expect("its checksum is right");
                whole.extend_from_slice(TcpPacket::new_checked(Ipv4Packet::new_checked(packet).unwrap().payload()).unwrap().payload());
            }
            prop_assert_eq!(whole, payload);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), is_tcp in any::<bool>()) {
            if is_tcp && bytes.len() > VNET_LEN + 20 {
                bytes[..VNET_LEN].fill(0);
                (bytes[VNET_LEN], bytes[VNET_LEN + 9]) = (0x45, 6);
                let len = (bytes.len() - VNET_LEN) as u16;
                bytes[VNET_LEN + 2..VNET_LEN + 4].copy_from_slice(&len.to_be_bytes());
            }
            if let Some(packet) = incoming(&bytes) {
                first_packet(packet);
            }
            outgoing(&mut bytes, NonZeroU16::new(9));
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused_unless_the_device_has_checked_it() {
        let mut packet = segment(b"data", TcpControl::None);
        let header = outgoing(&mut packet, None);
        let checked = [&header[..], &packet].concat();
        assert!(incoming(&checked).is_some(), "only begun, as in what the device joined");
        assert_eq!(incoming(&plain(&packet)), None);
        let right = cut(&header, packet).remove(0);
        assert!(incoming(&plain(&right)).is_some());
        let mut wrong = right;
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(incoming(&plain(&wrong)), None);
    }

    #[test]
    fn a_first_packet_is_a_syn_alone() {
        let first = first_packet(&segment(b"", TcpControl::Syn)).unwrap();
        assert_eq!((first.from.to_string(), first.to.to_string()), ("10.0.1.2:40000".into(), "10.0.1.3:6379".into()));
        for control in [TcpControl::None, TcpControl::Fin, TcpControl::Rst] {
            assert_eq!(first_packet(&segment(b"", control)), None);
        }
        let mut fragment = segment(b"", TcpControl::Syn);
        fragment[6] = 0x20;
        assert_eq!(first_packet(&fragment), None);
    }
}
