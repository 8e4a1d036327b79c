//! The message that tells a sender that its packets are too long (RFC 1191, section 4; RFC 4443, section 3.2).

use crate::checksum::Sum;
use crate::headers::{IPV4_LEN, IPV6_LEN, put, v4, v6, word};

const ICMP_LEN: usize = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Bytes of the message at most (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4c).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;

/// What a router sends that does not forward a packet because it is longer than `mtu` bytes: it is for the packet's source, and
/// comes from its destination, the only address that is known to lie behind the tunnel. `None` where none may be sent (RFC 1122,
/// section 3.2.2; RFC 4443, section 2.4e), or the bytes are no IP packet.
pub(crate) fn too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => fragmentation_needed(packet, mtu),
        6 => packet_too_big(packet, mtu),
        _ => None,
    }
}

fn fragmentation_needed(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    let is_first = word(header, v4::FLAGS) & v4::OFFSET == 0;
    let inside = packet.get(usize::from(header[0] & 0x0f) * 4..)?;
    // An error, such as this one.
    let is_error = header[9] == ICMP && !matches!(inside.first(), Some(0 | 8));
    let (source, destination) = (&header[12..16], &header[16..20]);
    if !is_first || is_error || [source, destination].iter().any(|address| !is_host(address)) {
        return None;
    }
    let quoted = &packet[..packet.len().min(LONGEST_V4 - IPV4_LEN - ICMP_LEN)];
    let mut message = vec![0; IPV4_LEN + ICMP_LEN + quoted.len()];
    (message[0], message[8], message[9]) = (0x45, 64, ICMP);
    let len = message.len() as u16;
    put(&mut message, v4::TOTAL_LEN, len.to_be_bytes());
    message[12..16].copy_from_slice(destination);
    message[16..20].copy_from_slice(source);
    let sum = Sum::of(&message[..IPV4_LEN]).checksum();
    put(&mut message, v4::CHECKSUM, sum);
    let icmp = &mut message[IPV4_LEN..];
    (icmp[0], icmp[1]) = (3, 4);
    put(icmp, 6, mtu.to_be_bytes());
    icmp[ICMP_LEN..].copy_from_slice(quoted);
    let sum = Sum::of(icmp).checksum();
    put(icmp, 2, sum);
    Some(message)
}

/// Neither "this network", loopback, multicast nor broadcast.
fn is_host(address: &[u8]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

fn packet_too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<IPV6_LEN>()?;
    let is_error = header[v6::NEXT] == ICMPV6 && packet.get(IPV6_LEN).is_none_or(|kind| *kind < 128);
    let (source, destination) = (&header[8..24], &header[24..40]);
    if is_error || source[0] == 0xff || source == [0; 16] || destination[0] == 0xff {
        return None;
    }
    let quoted = &packet[..packet.len().min(LONGEST_V6 - IPV6_LEN - ICMP_LEN)];
    let mut message = vec![0; IPV6_LEN + ICMP_LEN + quoted.len()];
    (message[0], message[v6::NEXT], message[7]) = (0x60, ICMPV6, 64);
    let len = (ICMP_LEN + quoted.len()) as u16;
    put(&mut message, v6::PAYLOAD_LEN, len.to_be_bytes());
    message[8..24].copy_from_slice(destination);
    message[24..40].copy_from_slice(source);
    message[IPV6_LEN] = 2;
    put(&mut message, IPV6_LEN + 4, u32::from(mtu).to_be_bytes());
    message[IPV6_LEN + ICMP_LEN..].copy_from_slice(quoted);
    let sum = Sum::of(&message[8..]) + Sum::number(len) + Sum::number(ICMPV6.into());
    put(&mut message, IPV6_LEN + 2, sum.checksum());
    Some(message)
}
