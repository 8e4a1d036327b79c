//! One packet of a flow: whether it can be part of a superpacket, and of which.

use crate::checksum::Sum;
use crate::headers::{Family, IPV4_LEN, IPV6_LEN, Protocol, Transport, array, double_word, tcp, udp, v4, v6, word};

/// A TCP or UDP packet directly behind an IP header without options, not a fragment.
#[derive(Debug)]
pub(super) struct Segment {
    found: Transport,
    flow: Flow,
    payload_len: usize,
    /// Whether its own bytes rule out that cutting a superpacket gives them again.
    lone: bool,
}

/// Addresses, and both ports.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    source: u128,
    destination: u128,
    ports: u32,
    family: Family,
    protocol: Protocol,
}

impl Segment {
    /// `None` where the packet does not show its flow.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let found = Transport::find(bytes).filter(|found| !found.fragment)?;
        let (header, source, destination) = match found.family {
            Family::V4 => (IPV4_LEN, double_word(bytes, 12).into(), double_word(bytes, 16).into()),
            Family::V6 => (IPV6_LEN, u128::from_be_bytes(array(bytes, 8)), u128::from_be_bytes(array(bytes, 24))),
        };
        if found.start != header {
            return None;
        }
        let ports = double_word(bytes, header);
        let flow = Flow { source, destination, ports, family: found.family, protocol: found.protocol };
        let payload_len = bytes.len() - found.payload;
        let lone = payload_len == 0 || !is_of_its_length(bytes, &found) || !is_canonical(bytes, &found);
        Some(Self { found, flow, payload_len, lone })
    }

    pub(super) const fn family(&self) -> Family {
        self.found.family
    }

    pub(super) const fn protocol(&self) -> Protocol {
        self.found.protocol
    }

    /// Where the TCP or UDP header begins.
    pub(super) const fn transport(&self) -> usize {
        self.found.start
    }

    /// Where the payload begins.
    pub(super) const fn payload(&self) -> usize {
        self.found.payload
    }

    pub(super) const fn payload_len(&self) -> usize {
        self.payload_len
    }

    pub(super) fn is_same_flow(&self, other: &Self) -> bool {
        self.flow == other.flow
    }

    /// Whether others may be joined to this packet.
    pub(super) fn leads(&self, bytes: &[u8]) -> bool {
        !self.lone && !self.ends(bytes)
    }

    /// Whether nothing may be joined behind this packet, whatever its length.
    pub(super) fn ends(&self, bytes: &[u8]) -> bool {
        self.protocol() == Protocol::Tcp && bytes[self.transport() + tcp::FLAGS] & tcp::PSH != 0
    }

    /// Whether this packet is, by its headers, the one that cutting a superpacket with the headers of `head` gives at place
    /// `index`, `head` being the packet at place zero and of the same flow. Its payload is not longer than that of `head`.
    pub(super) fn follows(&self, bytes: &[u8], head: &Self, first: &[u8], index: usize) -> bool {
        // Addresses and ports are the flow's. That lengths, checksums and flags can be made again is in `lone`.
        let network = match self.family() {
            // Version, header length, DSCP, ECN; flags, hop limit, protocol. The identification counts.
            Family::V4 => {
                word(bytes, 0) == word(first, 0)
                    && double_word(bytes, v4::FLAGS) == double_word(first, v4::FLAGS)
                    && word(bytes, v4::ID) == word(first, v4::ID).wrapping_add(index as u16)
            }
            // Version, traffic class, flow label; next header, hop limit.
            Family::V6 => {
                double_word(bytes, 0) == double_word(first, 0) && word(bytes, v6::NEXT) == word(first, v6::NEXT)
            }
        };
        let transport = match self.protocol() {
            Protocol::Tcp => {
                let (bytes, first) =
                    (&bytes[self.transport()..self.payload()], &first[head.transport()..head.payload()]);
                let sequence = double_word(first, tcp::SEQUENCE).wrapping_add((index * head.payload_len) as u32);
                double_word(bytes, tcp::SEQUENCE) == sequence
                    && double_word(bytes, tcp::ACKNOWLEDGED) == double_word(first, tcp::ACKNOWLEDGED)
                    && word(bytes, tcp::WINDOW) == word(first, tcp::WINDOW)
                    && word(bytes, tcp::URGENT) == word(first, tcp::URGENT)
                    && bytes[tcp::OPTIONS..] == first[tcp::OPTIONS..]
            }
            Protocol::Udp => true,
        };
        !self.lone && network && transport
    }

    /// Whether the TCP or UDP checksum is right. A wrong one must stay wrong, and cutting a superpacket computes it anew.
    pub(super) fn is_intact(&self, bytes: &[u8]) -> bool {
        // The packet is as long as a length field says, hence shorter than 2^16.
        let len = (bytes.len() - self.transport()) as u16;
        (self.found.pseudo_header(bytes) + Sum::number(len) + Sum::of(&bytes[self.transport()..])).is_right()
    }

    /// The sum of the pseudo header of a packet of this flow with `len` bytes behind the IP header.
    pub(super) fn pseudo_header(&self, bytes: &[u8], len: u16) -> Sum {
        self.found.pseudo_header(bytes) + Sum::number(len)
    }
}

/// Whether all length fields say how long the packet is.
fn is_of_its_length(bytes: &[u8], found: &Transport) -> bool {
    let network = match found.family {
        Family::V4 => usize::from(word(bytes, v4::TOTAL_LEN)),
        Family::V6 => IPV6_LEN + usize::from(word(bytes, v6::PAYLOAD_LEN)),
    };
    let transport = match found.protocol {
        Protocol::Tcp => network,
        Protocol::Udp => found.start + usize::from(word(bytes, found.start + udp::LEN)),
    };
    network == bytes.len() && transport == network
}

/// Whether flags and checksum fields are such as cutting a superpacket gives. The sum over the payload is not verified here.
fn is_canonical(bytes: &[u8], found: &Transport) -> bool {
    let network = match found.family {
        // Where zero is right, all ones are right too, but no sender writes them.
        Family::V4 => Sum::of_few(&array::<IPV4_LEN>(bytes, 0)).is_right() && word(bytes, v4::CHECKSUM) != u16::MAX,
        Family::V6 => true,
    };
    let checksum = word(bytes, found.start + found.protocol.checksum());
    let transport = match found.protocol {
        // The low bits beside the header length belong to the flags (reserved, or of Accurate ECN).
        Protocol::Tcp => {
            bytes[found.start + tcp::FLAGS] & !tcp::PSH == tcp::ACK
                && bytes[found.start + tcp::FLAGS - 1] & 0x0f == 0
                && checksum != u16::MAX
        }
        // Zero says that there is no checksum.
        Protocol::Udp => checksum != 0,
    };
    network && transport
}
