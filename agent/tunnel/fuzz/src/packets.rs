//! A second, simple implementation of reading and completing IP packets, with which the targets compare.

/// Where a packet's TCP or UDP header is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    pub(super) is_fragment: bool,
    /// Where the header begins, and where the payload.
    pub(super) start: usize,
    pub(super) payload: usize,
}

impl Found {
    /// `None` where the packet has no complete TCP or UDP header.
    pub(super) fn within(packet: &[u8]) -> Option<Self> {
        let is_v4 = match packet.first()? >> 4 {
            4 => true,
            6 => false,
            _ => return None,
        };
        let (mut protocol, mut start, mut fragment) = if is_v4 {
            let [six, seven] = [*packet.get(6)?, *packet.get(7)?];
            (*packet.get(9)?, usize::from(packet[0] & 15) * 4, u16::from_be_bytes([six & 0x3f, seven]))
        } else {
            (*packet.get(6)?, 40, 0)
        };
        if packet.len() < 20 || start < 20 || (!is_v4 && packet.len() < 40) {
            return None;
        }
        while !is_v4 && [0, 43, 44, 60].contains(&protocol) {
            let header = packet.get(start..start + 8)?;
            if protocol == 44 {
                // With IPv4's flag "more fragments", because a packet with a fragment header counts as a fragment in any case.
                fragment = u16::from_be_bytes([header[2], header[3]]) >> 3 | 0x2000;
                start += 8;
            } else {
                start += 8 + usize::from(header[1]) * 8;
            }
            protocol = header[0];
        }
        let len = match protocol {
            6 => usize::from(*packet.get(start + 12)? >> 4) * 4,
            17 => 8,
            _ => return None,
        };
        let whole = packet.len() >= start + len && (protocol == 17 || len >= 20) && fragment & 0x1fff == 0;
        let (is_tcp, is_fragment) = (protocol == 6, fragment != 0);
        whole.then_some(Self { is_v4, is_tcp, is_fragment, start, payload: start + len })
    }

    /// Where the checksum is.
    pub(super) const fn checksum(&self) -> usize {
        self.start + if self.is_tcp { 16 } else { 6 }
    }

    /// The sum of the pseudo header, for the packet's own length.
    pub(super) fn pseudo_header(&self, packet: &[u8]) -> u16 {
        let addresses = if self.is_v4 { &packet[12..20] } else { &packet[8..40] };
        let protocol = if self.is_tcp { 6 } else { 17 };
        let len = ((packet.len() - self.start) as u16).to_be_bytes();
        sum(&[addresses, &[0, protocol], &len].concat())
    }

    /// Whether the TCP or UDP checksum is there and right.
    pub(super) fn is_intact(&self, packet: &[u8]) -> bool {
        let all = [&self.pseudo_header(packet).to_be_bytes(), &packet[self.start..]].concat();
        sum(&all) == u16::MAX && (self.is_tcp || packet[self.checksum()..][..2] != [0, 0])
    }
}

/// Makes lengths and checksums what they must be; where `partial`, that of TCP or UDP is left to be completed.
pub(super) fn complete(packet: &mut [u8], partial: bool) {
    let len = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[10..12].fill(0);
            let end = (usize::from(packet[0] & 15) * 4).clamp(20, len);
            let checksum = !sum(&packet[..end]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        Some(6) if len >= 40 => packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
        _ => return,
    }
    let Some(found) = Found::within(packet) else { return };
    if !found.is_tcp {
        packet[found.start + 4..found.start + 6].copy_from_slice(&((len - found.start) as u16).to_be_bytes());
    }
    let at = found.checksum();
    let pseudo_header = found.pseudo_header(packet);
    packet[at..at + 2].copy_from_slice(&pseudo_header.to_be_bytes());
    if !partial {
        let checksum = match !sum(&packet[found.start..]) {
            0 if !found.is_tcp => u16::MAX,
            checksum => checksum,
        };
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The ones' complement sum of big-endian words (RFC 1071).
pub(super) fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum + u16::from(carry)
    })
}
