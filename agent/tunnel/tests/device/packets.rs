//! IP packets read and cut as the RFCs say: slow, simple, and without any of the device's code, which is checked against it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tap::{Frame, GSO_ECN, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// The fragment header of IPv6.
pub(crate) const FRAGMENT: u8 = 44;

/// TCP flags, the 13th byte behind the ports.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const CWR: u8 = 0x80;

/// A flow: within it, the order of packets is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    protocol: u8,
    /// Zero where they are unknown: in fragments, and in protocols without ports.
    ports: [u8; 4],
}

/// The positions of a packet's headers.
pub(crate) struct Layout {
    /// The protocol of the header at `transport`.
    pub(crate) protocol: u8,
    /// Offset of the header behind the IP header with its options or extension headers.
    pub(crate) transport: usize,
    /// Whether it is a fragment.
    fragment: bool,
}

/// The bytes at an offset that must be within the packet.
fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn set_word(packet: &mut [u8], at: usize, word: u16) {
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Reads an IP packet's headers. Panics where the bytes are no IP packet, because the tests send none.
pub(crate) fn layout(packet: &[u8]) -> Layout {
    if packet[0] >> 4 == 4 {
        let fragment = word(packet, 6) & 0x3fff != 0;
        return Layout { protocol: packet[9], transport: usize::from(packet[0] & 15) * 4, fragment };
    }
    assert_eq!(packet[0] >> 4, 6, "{packet:02x?}");
    let (mut protocol, mut at) = (packet[6], 40);
    // Hop-by-hop options and destination options (RFC 8200, 4.3 and 4.6); behind a fragment header, nothing is known.
    while matches!(protocol, 0 | 60) {
        (protocol, at) = (packet[at], at + 8 * (usize::from(packet[at + 1]) + 1));
    }
    Layout { protocol, transport: at, fragment: protocol == FRAGMENT }
}

/// The flow a packet belongs to.
pub(crate) fn flow(packet: &[u8]) -> Flow {
    let Layout { protocol, transport, fragment } = layout(packet);
    let ports = if matches!(protocol, TCP | UDP) && !fragment {
        packet[transport..transport + 4].try_into().unwrap()
    } else {
        [0; 4]
    };
    // The fragment header of IPv6 has the protocol of the fragmented packet.
    let protocol = if protocol == FRAGMENT { packet[transport] } else { protocol };
    let (source, destination) = addresses(packet);
    Flow { source, destination, protocol, ports }
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (at(12).into(), at(16).into())
    } else {
        let at = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (at(8).into(), at(24).into())
    }
}

/// The one's complement sum of RFC 1071, folded to 16 bits.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let all = parts.concat();
    let words = all.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header of a TCP or UDP packet (RFC 9293, 3.1; RFC 8200, 8.1).
pub(crate) fn pseudo(packet: &[u8]) -> u16 {
    let Layout { protocol, transport, .. } = layout(packet);
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let len = u16::try_from(packet.len() - transport).unwrap();
    sum(&[addresses, &[0, protocol], &len.to_be_bytes()])
}

/// Offset of the checksum in a TCP or UDP header.
pub(crate) fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// Writes the checksum of a TCP or UDP packet.
pub(crate) fn write_checksum(packet: &mut [u8]) {
    let Layout { protocol, transport, .. } = layout(packet);
    let place = transport + checksum_offset(protocol);
    set_word(packet, place, pseudo(packet));
    complete(packet, transport, place);
}

/// Completes a checksum whose field holds the sum of the pseudo header.
fn complete(packet: &mut [u8], start: usize, place: usize) {
    let checksum = !sum(&[&packet[start..]]);
    // In UDP, zero means that there is no checksum (RFC 768).
    let checksum = if checksum == 0 && layout(packet).protocol == UDP { 0xffff } else { checksum };
    set_word(packet, place, checksum);
}

/// Writes the checksum of an IPv4 header.
pub(crate) fn write_header_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    set_word(packet, 10, 0);
    set_word(packet, 10, !sum(&[&packet[..len]]));
}

/// The packets that a frame contains, as their receiver should get them.
#[track_caller]
pub(crate) fn cut(frame: &Frame) -> Vec<Vec<u8>> {
    let Frame { vnet, bytes } = frame;
    let start = usize::from(vnet.csum_start);
    if vnet.gso == GSO_NONE {
        let mut packet = bytes.clone();
        if vnet.needs_csum {
            complete(&mut packet, start, start + usize::from(vnet.csum_offset));
        }
        return vec![canonical(packet)];
    }

    let Layout { protocol, transport, .. } = layout(bytes);
    check_superpacket(frame);
    let tcp = protocol == TCP;
    let header = transport + if tcp { usize::from(bytes[transport + 12] >> 4) * 4 } else { 8 };
    let size = usize::from(vnet.gso_size);
    let count = bytes[header..].len().div_ceil(size);
    let segment = |(index, payload): (usize, &[u8])| {
        let mut packet = [&bytes[..header], payload].concat();
        let len = packet.len();
        if packet[0] >> 4 == 4 {
            set_word(&mut packet, 2, len as u16);
            let id = word(&packet, 4).wrapping_add(index as u16);
            set_word(&mut packet, 4, id);
            write_header_checksum(&mut packet);
        } else {
            set_word(&mut packet, 4, (len - 40) as u16);
        }
        if tcp {
            let place = transport + 4..transport + 8;
            let sequence = u32::from_be_bytes(packet[place.clone()].try_into().unwrap());
            packet[place].copy_from_slice(&sequence.wrapping_add((index * size) as u32).to_be_bytes());
            let first = if index == 0 { 0 } else { CWR };
            let last = if index + 1 == count { 0 } else { FIN | PSH };
            packet[transport + 13] &= !(first | last);
        } else {
            set_word(&mut packet, transport + 4, (len - transport) as u16);
        }
        write_checksum(&mut packet);
        canonical(packet)
    };
    bytes[header..].chunks(size).enumerate().map(segment).collect()
}

/// Checks the fields of a superpacket on which the kernel and network cards rely.
#[track_caller]
fn check_superpacket(Frame { vnet, bytes }: &Frame) {
    let Layout { protocol, transport, .. } = layout(bytes);
    let v4 = bytes[0] >> 4 == 4;
    assert_eq!(vnet.gso & !GSO_ECN, superpacket_kind(v4, protocol), "{vnet:?} for protocol {protocol}");
    assert!(vnet.needs_csum && vnet.gso_size > 0, "{vnet:?}");
    assert_eq!(usize::from(vnet.csum_start), transport, "{vnet:?}");
    assert_eq!(usize::from(vnet.csum_offset), checksum_offset(protocol), "{vnet:?}");
    let len = if v4 { word(bytes, 2) } else { word(bytes, 4) + 40 };
    assert_eq!(usize::from(len), bytes.len(), "the length in the IP header");
    if v4 {
        assert_eq!(sum(&[&bytes[..usize::from(bytes[0] & 15) * 4]]), 0xffff, "the checksum of the IP header");
    }
    if protocol == UDP {
        assert_eq!(usize::from(word(bytes, transport + 4)), bytes.len() - transport, "the length in the UDP header");
    }
    let partial = word(bytes, transport + checksum_offset(protocol));
    assert_eq!(partial % 0xffff, pseudo(bytes) % 0xffff, "the sum of the pseudo header");
}

pub(crate) fn superpacket_kind(v4: bool, protocol: u8) -> u8 {
    match (protocol, v4) {
        (TCP, true) => GSO_TCP4,
        (TCP, false) => GSO_TCP6,
        (UDP, _) => GSO_UDP,
        _ => panic!("no superpackets of protocol {protocol}"),
    }
}

/// Zero has two forms in one's complement, and a TCP implementation may write either.
fn canonical(mut packet: Vec<u8>) -> Vec<u8> {
    let Layout { protocol, transport, fragment } = layout(&packet);
    let place = transport + 16;
    if protocol == TCP && !fragment && packet.len() >= place + 2 && word(&packet, place) == 0xffff {
        set_word(&mut packet, place, 0);
    }
    packet
}

/// Offset of the number in the MSS option of a SYN; `None` where the packet is no SYN or has no such option.
pub(crate) fn mss_place(packet: &[u8]) -> Option<usize> {
    let Layout { protocol, transport, fragment } = layout(packet);
    if protocol != TCP || fragment || packet[transport + 13] & SYN == 0 {
        return None;
    }
    let mut at = transport + 20;
    let end = transport + usize::from(packet[transport + 12] >> 4) * 4;
    while at < end {
        match packet[at] {
            0 => return None,
            1 => at += 1,
            2 => return Some(at + 2),
            _ => at += usize::from(packet[at + 1]),
        }
    }
    None
}

/// The packet, with the MSS of a SYN lowered to what fits `mtu` where it is larger. Only the checksum changes too, and stays as
/// right or wrong as it was (RFC 1624).
pub(crate) fn clamped(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let fits = (mtu - if packet[0] >> 4 == 4 { 40 } else { 60 }) as u16;
    let place = mss_place(packet).filter(|place| word(packet, *place) > fits)?;
    let mut lowered = packet.to_vec();
    set_word(&mut lowered, place, fits);
    // The words of the sum begin at even offsets of the TCP header; the number may not.
    let transport = layout(packet).transport;
    let words = transport + (place - transport) / 2 * 2..transport + (place - transport + 2).next_multiple_of(2);
    let (old, new) = (sum(&[&packet[words.clone()]]), sum(&[&lowered[words]]));
    let before = !word(packet, transport + 16);
    let checksum = !sum(&[&before.to_be_bytes(), &(!old).to_be_bytes(), &new.to_be_bytes()]);
    set_word(&mut lowered, transport + 16, checksum);
    Some(canonical(lowered))
}
