//! Packets from peers, joined for the interface.

use std::collections::HashMap;
use std::ops::Range;

use mesh_offload::{Merge, Outgoing, VNET_LEN, VnetHeader};

use super::input::Input;
use super::packets::{Found, complete};

/// Packets in one reception.
const MOST: usize = 300;

/// Packets of few flows, most of which continue where the flow's last one ended, some changed. Cut again, the superpackets give the
/// same packets, those of each flow in their order, and no packet overtakes one whose flow is unknown.
pub fn merge(input: &[u8]) {
    let mut input = Input::new(input);
    let choice = input.byte();
    let mut merge = Merge::new(choice & 1 == 0, choice & 2 == 0);
    // The second reception finds the state that the first left.
    for _ in 0..2 {
        let packets = reception(&mut input);
        let (mut arena, places) = laid_out(&packets);
        for place in places {
            merge.push(&arena, place);
        }
        assert_eq!(merge.is_empty(), packets.is_empty());
        let mut cut = Vec::new();
        merge.drain(&mut arena, |slices| {
            assert!(slices.len() <= 65, "{} slices", slices.len());
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            cut_again(&bytes, choice, &mut cut);
        });
        assert!(merge.is_empty());
        compare(&packets, &cut);
    }
}

fn reception(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut flows = [Flow::default(); 16];
    let mut packets = Vec::new();
    while !input.is_empty() && packets.len() < MOST {
        let [choice, len, how] = input.array();
        // A reception ends here.
        if choice == 0xff {
            break;
        }
        let flow = &mut flows[usize::from(choice & 0x0f)];
        let mut packet = flow.next(choice & 0x0f, usize::from(len) * if choice & 0x10 == 0 { 1 } else { 16 });
        // Changed as an attacker may: with right checksums, or without.
        for _ in 0..how & 3 {
            let (at, mask) = (usize::from(input.byte()), input.byte());
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= mask;
            }
        }
        if how & 4 == 0 {
            complete(&mut packet, false);
        }
        let times = if how & 0x80 == 0 { 1 } else { usize::from(how >> 3 & 0x0f) };
        for _ in 0..times {
            packets.push(packet.clone());
            packet = flow.next(choice & 0x0f, usize::from(len));
            complete(&mut packet, false);
        }
    }
    packets
}

/// The state of a flow.
#[derive(Clone, Copy, Default)]
struct Flow {
    sequence: u32,
    id: u16,
}

impl Flow {
    /// The flow's next packet, complete. Of sixteen flows four are of each kind: TCP and UDP over IPv4 and IPv6.
    fn next(&mut self, number: u8, len: usize) -> Vec<u8> {
        let (is_v4, is_tcp) = (number & 1 == 0, number & 2 == 0);
        let mut packet = if is_v4 {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, if is_tcp { 6 } else { 17 }];
            header[4..6].copy_from_slice(&self.id.to_be_bytes());
            header.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            header
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, if is_tcp { 6 } else { 17 }, 64];
            header.extend([[0xfd; 16], [0xfe; 16]].concat());
            header
        };
        packet.extend([0, 7, 1, number]);
        if is_tcp {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        } else {
            packet.extend([0; 4]);
        }
        packet.extend((0..len).map(|at| (at as u8).wrapping_add(self.id as u8)));
        self.sequence = self.sequence.wrapping_add(len as u32);
        self.id = self.id.wrapping_add(1);
        complete(&mut packet, false);
        packet
    }
}

/// All in one arena, with gaps as headers and tags of messages leave them.
fn laid_out(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    for packet in packets {
        arena.extend([0xee; 16]);
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
        arena.extend([0xee; 16]);
    }
    (arena, places)
}

/// Cuts what was written, as the kernel would.
fn cut_again(written: &[u8], choice: u8, cut: &mut Vec<Vec<u8>>) {
    let Some((header, packet)) = written.split_first_chunk::<VNET_LEN>() else { panic!("no header") };
    let Ok(vnet) = VnetHeader::parse(header) else { panic!("an impossible header: {header:02x?}") };
    if vnet == VnetHeader::PLAIN {
        cut.push(packet.to_vec());
        return;
    }
    assert!(packet.len() <= 65_535 && vnet.gso.is_some() && vnet.checksum.is_some(), "{vnet:?}");
    let found = Found::within(packet);
    let is_tcp = found.is_some_and(|found| found.is_tcp);
    assert!(choice & if is_tcp { 1 } else { 2 } == 0, "joined for an interface that takes no superpackets");
    assert_eq!(found.map(|found| found.payload), Some(vnet.header_len.into()));
    // The kernel relies on the length fields of the packet.
    let mut completed = packet.to_vec();
    complete(&mut completed, true);
    assert_eq!(packet, completed, "a superpacket with wrong lengths or sums");
    let Ok(outgoing) = Outgoing::parse(&vnet, &mut completed) else { panic!("cannot be cut: {vnet:?} {packet:02x?}") };
    assert!((2..=64).contains(&outgoing.count()), "{} packets", outgoing.count());
    for index in 0..outgoing.count() {
        let mut out = vec![0; outgoing.longest()];
        let len = outgoing.write(index, &mut out);
        out.truncate(len);
        cut.push(out);
    }
}

/// The key of a packet's flow; `None` where the flow is unknown and no packet may overtake it.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let found = Found::within(packet)?;
    let plain = if found.is_v4 { 20 } else { 40 };
    let addresses = if found.is_v4 { 12..20 } else { 8..40 };
    let ports = &packet[found.start..found.start + 4];
    let key = || [&[found.is_v4.into(), found.is_tcp.into()], &packet[addresses], ports].concat();
    (found.start == plain && !found.is_fragment).then(key)
}

fn compare(sent: &[Vec<u8>], received: &[Vec<u8>]) {
    assert_eq!(sent.len(), received.len(), "packets were lost or made");
    // The packets of each flow, each with the number of packets without a flow in front of it.
    let sorted = |packets: &[Vec<u8>]| {
        let (mut flows, mut unknown) = (HashMap::<_, Vec<(usize, Vec<u8>)>>::new(), 0);
        for packet in packets {
            let flow = flow(packet);
            unknown += usize::from(flow.is_none());
            flows.entry(flow).or_default().push((unknown, packet.clone()));
        }
        flows
    };
    let (mut sent, mut received) = (sorted(sent), sorted(received));
    for (flow, packets) in sent.drain() {
        let arrived = received.remove(&flow).unwrap_or_default();
        for (one, other) in packets.iter().zip(&arrived) {
            assert_eq!(one.0, other.0, "a packet overtook one whose flow is unknown");
            assert_eq!(one.1, other.1, "a packet was changed, or overtook another of its flow");
        }
        assert_eq!(packets.len(), arrived.len(), "packets changed their flow");
    }
}
