//! The packets of applications: UDP over IPv4, with a mark that no sealed packet contains.

use std::{net::Ipv4Addr, time::Duration};

/// In every packet of an application: a datagram that contains it is clear text.
pub(crate) const MARK: [u8; 16] = *b"\xf0\x9f\x94\x91 plain text!";
const PORT: u16 = 7000;
const IP: usize = 20;
const HEADERS: usize = IP + 8;
const PAYLOAD: usize = 16 + 24;

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) number: u64,
}

impl Packet {
    /// The whole IP packet.
    pub(crate) fn build(self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut payload = [0; PAYLOAD];
        payload[..16].copy_from_slice(&MARK);
        payload[16..24].copy_from_slice(&(self.from as u64).to_be_bytes());
        payload[24..32].copy_from_slice(&(self.to as u64).to_be_bytes());
        payload[32..40].copy_from_slice(&self.number.to_be_bytes());
        Datagram { from: source, to: destination, port: PORT, payload: &payload }.build()
    }

    /// What a delivered packet says, and its inner source.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Ipv4Addr, Self)> {
        let marked = bytes.get(28..44) == Some(&MARK[..]);
        let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let index = |at: usize| usize::try_from(number(at)?).ok();
        let packet = Self { from: index(44)?, to: index(52)?, number: number(60)? };
        marked.then_some((source.into(), packet))
    }
}

/// A UDP datagram inside the tunnel, from a port to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The whole IP packet.
    pub(crate) fn build(self) -> Vec<u8> {
        let total = HEADERS + self.payload.len();
        let mut bytes = vec![0; total];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&short(total));
        bytes[8] = 64;
        bytes[9] = 17;
        bytes[12..16].copy_from_slice(&self.from.octets());
        bytes[16..20].copy_from_slice(&self.to.octets());
        let checksum = checksum(&bytes[..IP]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes[20..22].copy_from_slice(&self.port.to_be_bytes());
        bytes[22..24].copy_from_slice(&self.port.to_be_bytes());
        // No checksum of UDP: with IPv4 it may be left out.
        bytes[24..26].copy_from_slice(&short(total - IP));
        bytes[HEADERS..].copy_from_slice(self.payload);
        bytes
    }

    /// `None` for what goes from one port to another.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (source, port) = (port(IP)?, port(IP + 2)?);
        let datagram = Self { from: address(12)?, to: address(16)?, port, payload: bytes.get(HEADERS..)? };
        (source == port).then_some(datagram)
    }
}

/// Whether the mark is anywhere in these bytes.
pub(crate) fn is_clear(bytes: &[u8]) -> bool {
    let first = MARK[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(&MARK) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A STUN binding response with an XOR-MAPPED-ADDRESS (RFC 8489, section 14.2) to this request.
pub(crate) fn stun_response(request: &[u8], seen: std::net::SocketAddr) -> Option<Vec<u8>> {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let (std::net::IpAddr::V4(ip), transaction) = (seen.ip(), request.get(8..20)?) else { return None };
    let port = seen.port().to_be_bytes();
    let mut bytes = vec![1, 1, 0, 12];
    bytes.extend(COOKIE);
    bytes.extend(transaction);
    bytes.extend([0, 0x20, 0, 8, 0, 1, port[0] ^ COOKIE[0], port[1] ^ COOKIE[1]]);
    bytes.extend(ip.octets().iter().zip(COOKIE).map(|(byte, cookie)| byte ^ cookie));
    Some(bytes)
}

/// From one packet of an application to the next.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
