//! One packet of a flow: whether it can be part of a superpacket, and of which.

use crate::offload::checksum::Sum;
use crate::offload::headers::{Family, IPV4_LEN, IPV6_LEN, Protocol, Transport, tcp, udp, v4, v6};

/// A TCP or UDP packet directly behind an IP header without options, not a fragment.
#[derive(Debug)]
pub(super) struct Segment {
    found: Transport,
    flow: Flow,
    payload_len: usize,
    /// What is in it already rules out that a superpacket could give the same bytes again.
    lone: bool,
}

/// Addresses as in the IP header (an IPv4 header's in the first eight bytes), and both ports.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    addresses: [u8; 32],
    ports: [u8; 4],
    is_v4: bool,
    is_tcp: bool,
}

impl Segment {
    /// `None` where the flow cannot be told from the packet.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let found = Transport::find(bytes).filter(|found| !found.fragment)?;
        let (header, is_v4) = match found.family {
            Family::V4 => (IPV4_LEN, true),
            Family::V6 => (IPV6_LEN, false),
        };
        if found.start != header {
            return None;
        }
        let mut addresses = [0; 32];
        if is_v4 {
            addresses[..8].copy_from_slice(&bytes[12..20]);
        } else {
            addresses.copy_from_slice(&bytes[8..40]);
        }
        let ports = *bytes[header..].first_chunk()?;
        let is_tcp = found.protocol == Protocol::Tcp;
        let payload_len = bytes.len() - found.payload;
        let lone = payload_len == 0 || !is_of_its_length(bytes, &found) || !is_canonical(bytes, &found);
        Some(Self { found, flow: Flow { addresses, ports, is_v4, is_tcp }, payload_len, lone })
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
        if self.lone {
            return false;
        }
        // Addresses and ports are the flow's, lengths and checksums have been seen to be what they must be.
        let same = |range: std::ops::Range<usize>| bytes[range.clone()] == first[range];
        let network = match self.family() {
            // Version, header length, DSCP, ECN; flags, hop limit, protocol; and the identification counts.
            Family::V4 => same(0..2) && same(6..10) && id(bytes) == id(first).wrapping_add(index as u16),
            // Version, traffic class, flow label; next header, hop limit.
            Family::V6 => same(0..4) && same(6..8),
        };
        let at = self.transport();
        let transport = match self.protocol() {
            Protocol::Tcp => {
                let expected = sequence(first, at).wrapping_add((index * head.payload_len) as u32);
                // Acknowledgement, header length; window; urgent pointer and options. Of the flags only PSH may differ.
                head.payload() == self.payload()
                    && sequence(bytes, at) == expected
                    && same(at + 8..at + tcp::FLAGS)
                    && same(at + 14..at + tcp::CHECKSUM)
                    && same(at + 18..self.payload())
            }
            Protocol::Udp => true,
        };
        network && transport
    }

    /// Whether the TCP or UDP checksum is right. A wrong one must stay wrong, and a superpacket's is made anew.
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

/// Whether the checksums but for the payload's, and the flags, are such as are made when a superpacket is cut.
fn is_canonical(bytes: &[u8], found: &Transport) -> bool {
    let network = match found.family {
        // All ones would be right too where zero is, and nobody writes it.
        Family::V4 => Sum::of(&bytes[..IPV4_LEN]).is_right() && word(bytes, v4::CHECKSUM) != u16::MAX,
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

fn id(bytes: &[u8]) -> u16 {
    word(bytes, v4::ID)
}

fn sequence(bytes: &[u8], transport: usize) -> u32 {
    let at = transport + tcp::SEQUENCE;
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
