//! Reads of the interface: a virtio-net header and a packet or superpacket.

use mesh_offload::{Outgoing, VNET_LEN, VnetHeader};

use super::input::Input;
use super::packets::{Found, complete};

const CWR: u8 = 0x80;
const PSH_AND_FIN: u8 = 0x09;

/// The first byte says whether header and packet are changed to what the kernel would give; they follow.
pub fn split(input: &[u8]) {
    let mut input = Input::new(input);
    let (choice, mut header) = (input.byte(), input.array::<VNET_LEN>());
    let mut packet = input.rest().to_vec();
    let genuine = choice & 1 != 0;
    if genuine {
        complete(&mut packet, header[0] & 1 != 0);
        if let Some(found) = Found::within(&packet) {
            header[6..8].copy_from_slice(&(found.start as u16).to_ne_bytes());
            header[8..].copy_from_slice(&((found.checksum() - found.start) as u16).to_ne_bytes());
        }
    }
    let Ok(vnet) = VnetHeader::parse(&header) else { return };
    assert_eq!(VnetHeader::parse(&vnet.encode()), Ok(vnet));
    let whole = packet.clone();
    let is_fragment = Found::within(&whole).is_none_or(|found| found.is_fragment);
    let Ok(outgoing) = Outgoing::parse(&vnet, &mut packet) else {
        // A packet that the kernel would give is refused only if it is of another kind than the header says.
        let kind = Found::within(&whole).map(|found| match (found.is_tcp, found.is_v4) {
            (true, true) => 1,
            (true, false) => 4,
            (false, _) => 5,
        });
        assert!(!genuine || is_fragment || kind != Some(header[1] & 0x7f), "refused: {header:02x?} {whole:02x?}");
        return;
    };
    let mut out = vec![0; outgoing.longest()];
    match vnet.gso {
        None => {
            assert_eq!((outgoing.count(), outgoing.write(0, &mut out)), (1, whole.len()));
            check_single(&vnet, &whole, &out, genuine);
        }
        Some(gso) => {
            let Some(found) = Found::within(&whole) else { panic!("cut without headers: {whole:02x?}") };
            let chunks: Vec<&[u8]> = whole[found.payload..].chunks(gso.size.get().into()).collect();
            assert_eq!(outgoing.count(), chunks.len().max(1));
            // The packets' checksums are right only if the kernel's partial sum, if any, was.
            let summed = whole[found.checksum()..][..2] == found.pseudo_header(&whole).to_be_bytes();
            let summed = vnet.checksum.is_none() || summed;
            for index in 0..outgoing.count() {
                let len = outgoing.write(index, &mut out);
                let piece = Piece { index, last: index + 1 == outgoing.count(), size: gso.size.get().into(), found };
                let payload = chunks.get(index).copied().unwrap_or_default();
                piece.check(&whole, payload, &out[..len], summed);
            }
        }
    }
}

/// A single packet is unchanged, except for the checksum that was to be completed.
fn check_single(vnet: &VnetHeader, whole: &[u8], out: &[u8], genuine: bool) {
    let open = vnet.checksum.map(|partial| usize::from(partial.start) + usize::from(partial.offset));
    let differs = |at: &usize| whole[*at] != out[*at] && !open.is_some_and(|open| (open..open + 2).contains(at));
    assert_eq!((0..whole.len()).find(differs), None, "{whole:02x?} became {out:02x?}");
    // In `whole`: a checksum to be completed may be within the IP headers, and change them.
    if let Some(found) = Found::within(whole).filter(|_| genuine) {
        assert!(found.is_intact(out), "{whole:02x?} became {out:02x?}");
    }
}

/// A packet's position in its superpacket.
struct Piece {
    index: usize,
    last: bool,
    size: usize,
    found: Found,
}

impl Piece {
    fn check(&self, whole: &[u8], payload: &[u8], out: &[u8], summed: bool) {
        let Found { is_v4, is_tcp, start, payload: headers, .. } = self.found;
        assert_eq!(&out[headers..], payload);
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (mut expected, index) = (whole[..headers].to_vec(), self.index);
        if is_v4 {
            let id = word(whole, 4).wrapping_add(index as u16);
            expected[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if is_tcp {
            let sequence = u32::from_be_bytes([whole[start + 4], whole[start + 5], whole[start + 6], whole[start + 7]]);
            let sequence = sequence.wrapping_add((index * self.size) as u32);
            expected[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            expected[start + 13] &= !(if index == 0 { 0 } else { CWR } | if self.last { 0 } else { PSH_AND_FIN });
        }
        expected.extend(payload);
        complete(&mut expected, false);
        let at = self.found.checksum();
        if !summed {
            expected[at..at + 2].copy_from_slice(&out[at..at + 2]);
        }
        assert_eq!(out, expected, "packet {index} of {whole:02x?}");
    }
}
