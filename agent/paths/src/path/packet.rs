//! The packet inside the tunnel that carries a message of one agent to the other: UDP over IPv4 between the mesh addresses, from
//! [`PORT`] to [`PORT`].

use std::net::Ipv4Addr;

use super::{LARGEST, PORT};

const IP: usize = 20;
const UDP: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" and the offset.
const FRAGMENT: u16 = 0x3fff;
const TTL: u8 = 64;
const PROTOCOL: u8 = 17;

/// Writes a packet. Of the payload the first [`LARGEST`] bytes, which is more than any message has.
#[must_use]
pub fn build(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(LARGEST)];
    let length = |headers: usize| u16::try_from(headers + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0; IP + UDP];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length(IP + UDP));
    packet[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    packet[8..10].copy_from_slice(&[TTL, PROTOCOL]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = !sum(&packet[..IP], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&PORT.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&length(UDP));
    packet.extend_from_slice(payload);
    let sum = !udp_sum(source, destination, &packet[IP..]);
    // Zero would say that there is none (RFC 768).
    packet[26..28].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
    packet
}

/// Source, destination and payload. `None` where it is anything but one whole, sound datagram between those ports. Bytes behind
/// the packet's own length are WireGuard's padding.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let head = packet.first_chunk::<IP>()?;
    let header = usize::from(head[0] & 0xf) * 4;
    if head[0] >> 4 != 4 || header < IP || word(head, 6)? & FRAGMENT != 0 || head[9] != PROTOCOL {
        return None;
    }
    let packet = packet.get(..word(head, 2)?.into())?;
    let (header, datagram) = packet.split_at_checked(header)?;
    if sum(header, 0) != u16::MAX || word(datagram, 0)? != PORT || word(datagram, 2)? != PORT {
        return None;
    }
    let datagram = datagram.get(..word(datagram, 4)?.into())?;
    let (head, [source, destination]) = (datagram.first_chunk::<UDP>()?, [address(header, 12)?, address(header, 16)?]);
    if word(head, 6)? != 0 && udp_sum(source, destination, datagram) != u16::MAX {
        return None;
    }
    Some((source, destination, &datagram[UDP..]))
}

/// The Internet checksum before its complement (RFC 1071): all ones over anything that carries the right one.
fn sum(bytes: &[u8], seed: u32) -> u16 {
    let (words, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |&byte| u32::from(byte) << 8);
    // No more than 32,768 words of 16 bits each.
    let mut sum = words.iter().fold(seed + last, |sum, &word| sum + u32::from(u16::from_be_bytes(word)));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Over the datagram and its pseudo-header (RFC 768).
fn udp_sum(source: Ipv4Addr, destination: Ipv4Addr, datagram: &[u8]) -> u16 {
    let addresses = u32::from(sum(&source.octets(), 0)) + u32::from(sum(&destination.octets(), 0));
    sum(datagram, addresses + u32::from(PROTOCOL) + datagram.len() as u32)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}
