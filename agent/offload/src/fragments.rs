//! One IPv4 packet in fragments (RFC 791, section 3.2).

use crate::checksum::Sum;
use crate::headers::{IPV4_LEN, put, v4, word};

/// Bytes of the unit in which places are counted.
const UNIT: usize = 8;

/// How a packet is fragmented.
#[derive(Debug)]
pub(crate) struct Fragments {
    /// Bytes of the header.
    header: usize,
    /// Payload of each but the last: whole units.
    size: usize,
    payload: usize,
}

impl Fragments {
    /// `None` where the packet is not IPv4, must not be fragmented, or is not what its header says. It may be a fragment itself.
    pub(crate) fn new(packet: &[u8], mtu: u16) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV4_LEN>().filter(|fixed| fixed[0] >> 4 == 4)?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let (len, place) = (usize::from(word(fixed, v4::TOTAL_LEN)), word(fixed, v4::FLAGS));
        let size = usize::from(mtu).checked_sub(header)? / UNIT * UNIT;
        let payload = packet.len().checked_sub(header)?;
        let end = usize::from(place & v4::OFFSET) * UNIT + payload;
        let may = header >= IPV4_LEN && len == packet.len() && place & v4::DONT_FRAGMENT == 0;
        (may && size > 0 && end <= usize::from(u16::MAX)).then_some(Self { header, size, payload })
    }

    pub(crate) fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// Bytes of the longest.
    pub(crate) fn longest(&self) -> usize {
        self.header + self.payload.min(self.size)
    }

    /// Writes the fragment `index` of the packet that this was made of, and returns its length.
    pub(crate) fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) -> usize {
        let Self { header, size, payload } = *self;
        let from = index * size;
        let (len, is_last) = (size.min(payload - from), from + size >= payload);
        let out = &mut out[..header + len];
        out[..header].copy_from_slice(&packet[..header]);
        out[header..].copy_from_slice(&packet[header + from..][..len]);
        let place = word(packet, v4::FLAGS) + (from / UNIT) as u16;
        put(out, v4::TOTAL_LEN, ((header + len) as u16).to_be_bytes());
        put(out, v4::FLAGS, if is_last { place } else { place | v4::MORE_FRAGMENTS }.to_be_bytes());
        put(out, v4::CHECKSUM, [0; 2]);
        if index > 0 {
            leave_out_options(&mut out[IPV4_LEN..header]);
        }
        put(out, v4::CHECKSUM, Sum::of(&out[..header]).checksum());
        header + len
    }
}

/// Puts what does nothing in the place of the options that belong into the first fragment alone.
fn leave_out_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    const NOTHING: u8 = 1;

    let mut at = 0;
    while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
        let len = if kind == NOTHING { 1 } else { options.get(at + 1).map_or(0, |len| usize::from(*len)) };
        // Where an option has a wrong length, nothing behind it can be read.
        if len == 0 || at + len > options.len() {
            return;
        }
        if kind & COPIED == 0 {
            options[at..at + len].fill(NOTHING);
        }
        at += len;
    }
}
