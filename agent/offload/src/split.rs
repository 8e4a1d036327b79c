//! What one read of the interface gave, cut into packets that are complete and short enough for the tunnel.

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::fragments::Fragments;
use crate::headers::{
    Family, IPV4_LEN, IPV6_LEN, Protocol, Transport, array, double_word, put, tcp, udp, v4, v6, word,
};
use crate::mss;
use crate::packet;
use crate::too_big::too_big;
use crate::vnet::{Gso, GsoKind, PartialChecksum, VnetHeader};

/// Why what the interface gave cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither IPv4 nor IPv6, or shorter than their headers.
    #[error("not an IP packet")]
    NotIp,
    /// A kind of superpacket that the interface did not offer to take.
    #[error("packets of kind {kind} were not asked for")]
    Kind {
        /// `gso_type` without the bit for ECN.
        kind: u8,
    },
    /// `gso_size` is zero.
    #[error("packets without payload were asked for")]
    Size,
    /// The superpacket is not what the header in front says, is a fragment, or ends within its headers.
    #[error("the headers do not fit what is to be cut")]
    Headers,
    /// The checksum's position is beyond the packet, or not where its protocol has one.
    #[error("the checksum is not within the packet")]
    Checksum,
}

/// What one read of the interface gave: one packet, or a superpacket that is to be cut.
///
/// The thread that reads the interface parses each read once, and writes the packets one by one where they are to be sealed: each
/// payload byte is copied once.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// One complete packet; or all headers, prepared by [`Cut::new`], and all the payload.
    packet: &'a mut [u8],
    destination: IpAddr,
    pieces: Pieces,
}

/// What the packets are that are written.
#[derive(Debug)]
enum Pieces {
    Whole,
    Segments(Cut),
    Fragments(Fragments),
}

impl<'a> Outgoing<'a> {
    /// Checks what was read: `packet` is what followed the header `vnet`. The checksum of a single packet is completed in place.
    /// The headers of a superpacket are prepared for [`Self::write`], and are not valid headers any more.
    ///
    /// # Errors
    /// Where `packet` is not what `vnet` says; the caller is to count and drop it. Its bytes may have changed.
    pub fn parse(vnet: &VnetHeader, packet: &'a mut [u8]) -> Result<Self, Malformed> {
        let destination = packet::destination(packet).ok_or(Malformed::NotIp)?;
        let pieces = match vnet.gso {
            Some(gso) => Pieces::Segments(Cut::new(packet, gso, vnet.checksum)?),
            None => {
                if let Some(partial) = vnet.checksum {
                    complete(packet, partial)?;
                }
                Pieces::Whole
            }
        };
        Ok(Self { packet, destination, pieces })
    }

    /// The destination of every packet.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// How many packets there are: at least one.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.pieces {
            Pieces::Whole => 1,
            Pieces::Segments(cut) => cut.count,
            Pieces::Fragments(fragments) => fragments.count(),
        }
    }

    /// The length of the longest packet, in bytes.
    #[inline]
    #[must_use]
    pub fn longest(&self) -> usize {
        match &self.pieces {
            Pieces::Whole => self.packet.len(),
            Pieces::Segments(cut) => self.packet.len().min(cut.transport.payload + cut.size),
            Pieces::Fragments(fragments) => fragments.longest(),
        }
    }

    /// Lowers the segment size that a connection's first packet announces (see [`clamp_mss`](crate::clamp_mss)).
    pub fn clamp_mss(&mut self, mtu: u16) {
        // A superpacket carries data: its connection is established.
        if let Pieces::Whole = self.pieces {
            mss::clamp_mss(self.packet, mtu);
        }
    }

    /// Makes every packet at most `mtu` bytes long, where that is possible here: TCP is cut into shorter segments, and IPv4 that may be
    /// fragmented is (RFC 791). False where it is for the sender to send shorter packets ([`Self::too_big`]); then nothing has changed.
    #[must_use]
    pub fn fit(&mut self, mtu: u16) -> bool {
        if self.longest() <= mtu.into() {
            return true;
        }
        match &mut self.pieces {
            Pieces::Segments(cut) => cut.fit(self.packet, mtu),
            Pieces::Whole => {
                let pieces = (Cut::of_segment(self.packet, mtu).map(Pieces::Segments))
                    .or_else(|| Fragments::new(self.packet, mtu).map(Pieces::Fragments));
                pieces.map(|pieces| self.pieces = pieces).is_some()
            }
            Pieces::Fragments(_) => false,
        }
    }

    /// What tells the sender that its packets are longer than `mtu` bytes: an ICMP message to it, from the packets' destination. `None`
    /// where none may be sent.
    #[must_use]
    pub fn too_big(&self, mtu: u16) -> Option<Vec<u8>> {
        let mut first = vec![0; self.longest()];
        let len = self.write(0, &mut first);
        too_big(&first[..len], mtu)
    }

    /// Writes the packet `index`, counted from zero, to the beginning of `out`, and returns its length in bytes.
    ///
    /// # Panics
    /// Where `index` is not less than [`Self::count`], or `out` is shorter than the packet: [`Self::longest`] bytes always suffice.
    #[inline]
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        match &self.pieces {
            Pieces::Segments(cut) => cut.write(self.packet, index, out),
            Pieces::Fragments(fragments) => fragments.write(self.packet, index, out),
            Pieces::Whole => {
                out[..self.packet.len()].copy_from_slice(self.packet);
                self.packet.len()
            }
        }
    }
}

/// How a superpacket is cut: into the packets that the kernel itself makes where no interface does it (RFC 9293 and the behaviour
/// of `inet_gso_segment`, `tcp_gso_segment` and `__udp_gso_segment`).
#[derive(Debug)]
struct Cut {
    transport: Transport,
    /// Payload of each packet but the last.
    size: usize,
    count: usize,
    /// The flags of a TCP header (of the first packet and of the last).
    flags: u8,
    sequence: u32,
    id: u16,
    /// The sum of the IPv4 header without what differs.
    header: Sum,
    /// The sum of the pseudo header without the length.
    pseudo_header: Sum,
}

impl Cut {
    /// Reads the headers, and clears the fields in which the packets differ.
    fn new(packet: &mut [u8], gso: Gso, partial: Option<PartialChecksum>) -> Result<Self, Malformed> {
        let transport = Transport::find(packet).filter(|found| !found.fragment).ok_or(Malformed::Headers)?;
        let asked = match gso.kind {
            GsoKind::TcpV4 => (Protocol::Tcp, transport.family == Family::V4),
            GsoKind::TcpV6 => (Protocol::Tcp, transport.family == Family::V6),
            GsoKind::Udp => (Protocol::Udp, true),
        };
        if asked != (transport.protocol, true) || packet.len() > usize::from(u16::MAX) {
            return Err(Malformed::Headers);
        }
        let start = transport.start;
        let checksum = start + transport.protocol.checksum();
        let pseudo_header = match partial {
            Some(partial) => {
                let there =
                    usize::from(partial.start) == start && usize::from(partial.offset) == transport.protocol.checksum();
                if !there {
                    return Err(Malformed::Checksum);
                }
                // The kernel's sum is kept, because it is over the last hop of a routing header. The superpacket's length is taken
                // out of it: each packet has its own.
                let len = (packet.len() - start) as u16;
                Sum::word(array(packet, checksum)) + Sum::without(len.to_be_bytes())
            }
            None => transport.pseudo_header(packet),
        };

        let is_v4 = transport.family == Family::V4;
        let (flags, sequence) = match transport.protocol {
            Protocol::Tcp => (packet[start + tcp::FLAGS], double_word(packet, start + tcp::SEQUENCE)),
            Protocol::Udp => (0, 0),
        };
        let id = if is_v4 { word(packet, v4::ID) } else { 0 };
        let size = usize::from(gso.size.get());
        put(packet, checksum, [0_u8; 2]);
        if is_v4 {
            for field in [v4::TOTAL_LEN, v4::ID, v4::CHECKSUM] {
                put(packet, field, [0_u8; 2]);
            }
        }
        Ok(Self {
            transport,
            size,
            count: (packet.len() - transport.payload).div_ceil(size).max(1),
            flags,
            sequence,
            id,
            header: if is_v4 { Sum::of(&packet[..start]) } else { Sum::default() },
            pseudo_header,
        })
    }

    /// How a single TCP segment that is complete is cut into shorter ones. `None` where it is none, or cannot be cut: one that begins a
    /// connection, whose data is urgent, that is signed (RFC 2385, RFC 5925), or whose checksum is wrong, which must not become right
    /// on its way.
    fn of_segment(packet: &mut [u8], mtu: u16) -> Option<Self> {
        let found = Transport::find(packet).filter(|found| !found.fragment && found.protocol == Protocol::Tcp)?;
        let (kind, len) = match found.family {
            Family::V4 => (GsoKind::TcpV4, word(packet, v4::TOTAL_LEN).into()),
            Family::V6 => (GsoKind::TcpV6, IPV6_LEN + usize::from(word(packet, v6::PAYLOAD_LEN))),
        };
        let segment = &packet[found.start..];
        let is_plain = segment[tcp::FLAGS] & (tcp::SYN | tcp::RST | tcp::URG) == 0
            && !mss::is_signed(&packet[found.start..found.payload]);
        let sum = found.pseudo_header(packet) + Sum::number(segment.len().try_into().ok()?) + Sum::of(segment);
        if len != packet.len() || !is_plain || !sum.is_right() {
            return None;
        }
        let size = usize::from(mtu).checked_sub(found.payload)?;
        Self::new(packet, Gso { kind, size: u16::try_from(size).ok()?.try_into().ok()? }, None).ok()
    }

    /// Makes the packets shorter; false where they are no segments of TCP.
    fn fit(&mut self, packet: &[u8], mtu: u16) -> bool {
        let size = usize::from(mtu).checked_sub(self.transport.payload).filter(|size| *size > 0);
        let Some(size) = size.filter(|_| self.transport.protocol == Protocol::Tcp) else { return false };
        self.size = size;
        self.count = (packet.len() - self.transport.payload).div_ceil(size).max(1);
        true
    }

    fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) -> usize {
        let Transport { family, protocol, start, payload, .. } = self.transport;
        let from = payload + index * self.size;
        let rest = &packet[from..];
        let rest = &rest[..rest.len().min(self.size)];
        let len = payload + rest.len();
        let out = &mut out[..len];
        out[..payload].copy_from_slice(&packet[..payload]);
        out[payload..].copy_from_slice(rest);

        // No length is more than the superpacket's, which is checked to fit.
        match family {
            Family::V4 => {
                let (len, id) = (len as u16, self.id.wrapping_add(index as u16));
                put(out, v4::TOTAL_LEN, len.to_be_bytes());
                put(out, v4::ID, id.to_be_bytes());
                put(out, v4::CHECKSUM, (self.header + Sum::number(len) + Sum::number(id)).checksum());
            }
            Family::V6 => put(out, v6::PAYLOAD_LEN, ((len - IPV6_LEN) as u16).to_be_bytes()),
        }
        let transport_len = (len - start) as u16;
        match protocol {
            Protocol::Tcp => {
                let sequence = self.sequence.wrapping_add((index * self.size) as u32);
                put(out, start + tcp::SEQUENCE, sequence.to_be_bytes());
                let not_first = if index == 0 { 0 } else { tcp::CWR };
                let not_last = if index + 1 == self.count { 0 } else { tcp::FIN | tcp::PSH };
                out[start + tcp::FLAGS] = self.flags & !(not_first | not_last);
            }
            Protocol::Udp => put(out, start + udp::LEN, transport_len.to_be_bytes()),
        }
        let sum = self.pseudo_header + Sum::number(transport_len) + Sum::of(&out[start..]);
        put(out, start + protocol.checksum(), finished(protocol, sum));
        len
    }
}

/// The checksum field for `sum`. In UDP, zero says that there is no checksum (RFC 768).
fn finished(protocol: Protocol, sum: Sum) -> [u8; 2] {
    match (protocol, sum.checksum()) {
        (Protocol::Udp, [0, 0]) => [0xff; 2],
        (_, checksum) => checksum,
    }
}

/// Completes the checksum of a single packet of any protocol, as `skb_checksum_help` does. That the result is never zero matters to
/// UDP and makes no difference to the others.
fn complete(packet: &mut [u8], partial: PartialChecksum) -> Result<(), Malformed> {
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    if start < IPV4_LEN || field + 2 > packet.len() {
        return Err(Malformed::Checksum);
    }
    let checksum = finished(Protocol::Udp, Sum::of(&packet[start..]));
    put(packet, field, checksum);
    Ok(())
}
