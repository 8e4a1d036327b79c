//! Packets into superpackets, and back.

use std::io::IoSlice;
use std::ops::Range;

use proptest::prelude::*;

use super::packets::{Spec, specs};
use crate::vnet::VnetHeader;
use crate::{Merge, Outgoing, VNET_LEN};

/// What one write handed over: the header in front, and the packet.
type Write = (VnetHeader, Vec<u8>);

/// Everything that is written for `packets`, which lie in one arena with gaps between them.
fn merge(merge: &mut Merge, packets: &[Vec<u8>]) -> Vec<Write> {
    let mut arena = Vec::new();
    let mut place = |packet: &Vec<u8>| -> Range<usize> {
        arena.extend([0xaa; 16]);
        arena.extend(packet);
        arena.len() - packet.len()..arena.len()
    };
    let places: Vec<_> = packets.iter().map(&mut place).collect();
    arena.extend([0xaa; 16]);
    for place in places {
        merge.push(&arena, place);
    }
    assert_eq!(merge.is_empty(), packets.is_empty());
    let mut writes = Vec::new();
    merge.drain(&mut arena, |slices: &[IoSlice<'_>]| {
        let (vnet, slices) = slices.split_first().unwrap();
        let vnet: &[u8; VNET_LEN] = vnet[..].try_into().unwrap();
        writes
            .push((VnetHeader::parse(vnet).unwrap(), slices.iter().flat_map(|slice| slice.iter().copied()).collect()));
    });
    assert!(merge.is_empty(), "what was handed over is forgotten");
    writes
}

fn merged(packets: &[Vec<u8>]) -> Vec<Write> {
    merge(&mut Merge::new(true, true), packets)
}

/// The packets into which the reader of a write cuts it.
fn cut((vnet, packet): &Write) -> Vec<Vec<u8>> {
    let mut packet = packet.clone();
    if *vnet == VnetHeader::PLAIN {
        return vec![packet];
    }
    let outgoing = Outgoing::parse(vnet, &mut packet).unwrap();
    let one = |index| {
        let mut out = vec![0; outgoing.longest()];
        let len = outgoing.write(index, &mut out);
        out.truncate(len);
        out
    };
    (0..outgoing.count()).map(one).collect()
}

fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    let writes = merged(packets);
    let all: Vec<_> = writes.iter().flat_map(cut).collect();
    assert_eq!(all, packets, "packets of one flow, in their order");
    writes.iter().map(|write| cut(write).len()).collect()
}

fn stream(spec: &Spec, size: usize, len: usize) -> Vec<Vec<u8>> {
    spec.clone().with_payload((0..len).map(|i| (i % 251) as u8).collect()).segments(size)
}

fn every_kind() -> [Spec; 4] {
    [Spec::tcp(true), Spec::tcp(false), Spec::udp(true), Spec::udp(false)]
}

#[test]
fn one_write_is_what_an_offloading_sender_would_have_given() {
    for spec in every_kind() {
        let spec = Spec { flags: 0x18, ..spec }.with_payload((0..62_000_u32).map(|i| (i % 251) as u8).collect());
        let writes = merged(&spec.segments(1380));
        let (vnet, packet) = spec.superpacket(1380);
        let headers = packet.len() - spec.payload.len();
        assert_eq!(writes, [(VnetHeader { header_len: headers as u16, ..vnet }, packet)]);
    }
}

#[test]
fn a_run_has_bounds() {
    for spec in every_kind() {
        assert_eq!(counts(&stream(&spec, 100, 100 * 130)), [64, 64, 2], "packets in a write");
        let counts = counts(&stream(&spec, 9000, 9000 * 9));
        assert_eq!(counts, [7, 2], "bytes in a write");
        assert_eq!(self::counts(&stream(&spec, 1000, 1)), [1]);
    }
}

#[test]
fn a_shorter_packet_is_the_last() {
    for spec in every_kind() {
        let mut packets = stream(&spec, 1000, 3500);
        assert_eq!(counts(&packets), [4]);
        let behind = Spec {
            sequence: spec.sequence.wrapping_add(3500),
            id: spec.id.wrapping_add(4),
            payload: vec![9; 500],
            ..spec.clone()
        };
        packets.push(behind.build());
        assert_eq!(counts(&packets), [4, 1]);
        let longer = Spec { sequence: spec.sequence.wrapping_add(1000), id: spec.id.wrapping_add(1), ..spec.clone() };
        let packets = [spec.clone().with_payload(vec![1; 1000]).build(), longer.with_payload(vec![2; 1001]).build()];
        assert_eq!(counts(&packets), [1, 1]);
    }
}

/// The second of three packets changed: what comes of the three.
#[track_caller]
fn second(spec: &Spec, change: impl Fn(&mut Spec)) -> Vec<usize> {
    let packets = [0_u16, 1, 2].map(|index| {
        let mut one = spec.clone().with_payload(vec![index as u8; 700]);
        one.id = one.id.wrapping_add(index);
        one.sequence = one.sequence.wrapping_add(u32::from(index) * 700);
        if index == 1 {
            change(&mut one);
        }
        one.build()
    });
    counts(&packets)
}

#[test]
fn what_cutting_would_not_give_again_is_not_joined() {
    let apart = vec![1, 1, 1];
    for spec in every_kind() {
        assert_eq!(second(&spec, |_| ()), [3]);
        assert_eq!(second(&spec, |one| one.class ^= 1), apart, "ECN");
        assert_eq!(second(&spec, |one| one.class ^= 0x80), apart, "DSCP");
        assert_eq!(second(&spec, |one| one.hops -= 1), apart);
        assert_eq!(second(&spec, |one| one.payload.clear()), apart);
    }
    for spec in every_kind().into_iter().filter(|spec| spec.is_v4) {
        assert_eq!(second(&spec, |one| one.id -= 1), apart);
        assert_eq!(second(&spec, |one| one.dont_fragment ^= true), apart);
        assert_eq!(second(&spec, |one| one.network_options = vec![1; 4]), apart);
    }
    for spec in every_kind().into_iter().filter(|spec| !spec.is_v4) {
        assert_eq!(second(&spec, |one| one.network_options = vec![0; 6]), apart);
    }
    for spec in every_kind().into_iter().filter(|spec| spec.is_tcp) {
        assert_eq!(second(&spec, |one| one.sequence += 1), apart);
        assert_eq!(second(&spec, |one| one.acknowledged += 1), apart);
        assert_eq!(second(&spec, |one| one.window += 1), apart);
        assert_eq!(second(&spec, |one| one.urgent += 1), apart);
        assert_eq!(second(&spec, |one| one.options[11] ^= 1), apart);
        assert_eq!(second(&spec, |one| one.options.truncate(8)), apart);
        for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80, 0x10] {
            assert_eq!(second(&spec, |one| one.flags ^= flag), apart, "flag {flag:#x}");
        }
        assert_eq!(second(&spec, |one| one.flags |= 0x08), [2, 1], "PSH ends a run");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for spec in every_kind() {
        for wrong in 0..4 {
            let mut packets = stream(&spec, 1000, 4000);
            packets[wrong][spec.transport() + 40] ^= 0x10;
            let mut expected = vec![1];
            if wrong > 0 {
                expected.insert(0, wrong);
            }
            if wrong < 3 {
                expected.push(3 - wrong);
            }
            assert_eq!(counts(&packets), expected, "packet {wrong}");
        }
        if spec.is_v4 {
            let mut packets = stream(&spec, 1000, 4000);
            packets[1][10] ^= 1;
            assert_eq!(counts(&packets), [1, 1, 2], "the IP header's");
        }
    }
    let mut packets = stream(&Spec::udp(true), 1000, 3000);
    packets[1][26..28].fill(0);
    assert_eq!(counts(&packets), [1, 1, 1], "none at all");
}

/// Zero and all ones mean the same in ones' complement. Cutting writes one of them, so only a packet with that one is joined.
#[test]
fn the_other_form_of_a_zero_checksum_stays() {
    for spec in every_kind() {
        let mut packets = stream(&spec, 1000, 3000);
        let field = spec.transport() + usize::from(spec.partial().offset);
        // Payload that makes the sum of the second packet all ones, hence its checksum zero.
        let at = packets[1].len() - 2;
        let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let sum = u32::from(word(&packets[1], at)) + u32::from(word(&packets[1], field));
        let sum = (sum & 0xffff) + (sum >> 16);
        packets[1][at..].copy_from_slice(&(sum as u16).to_be_bytes());
        for (checksum, expected) in [(0_u16, vec![3]), (0xffff, vec![1, 1, 1])] {
            // In UDP it is the reverse: zero says that there is no checksum.
            let checksum = if spec.is_tcp { checksum } else { !checksum };
            packets[1][field..field + 2].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(counts(&packets), expected, "{checksum:#x}");
        }
    }
    let second_with = |id| Spec { id, ..Spec::udp(true) }.with_payload(vec![0; 1002]).segments(501).remove(1);
    let id = (0..=u16::MAX).find(|id| second_with(*id)[10..12] == [0, 0]).expect("some header sums to all ones");
    let mut packets = Spec { id, ..Spec::udp(true) }.with_payload(vec![0; 1002]).segments(501);
    assert_eq!(counts(&packets), [2]);
    packets[1][10..12].fill(0xff);
    assert_eq!(counts(&packets), [1, 1], "the IP header's");
}

/// Three packets that follow each other, all or only the second of them changed so that their checksums are right.
fn three(spec: &Spec, all: bool, change: impl Fn(&mut [u8])) -> Vec<Vec<u8>> {
    let packet = |index: u16| {
        let sequence = spec.sequence.wrapping_add(u32::from(index) * 700);
        let one = Spec { sequence, id: spec.id.wrapping_add(index), payload: vec![7; 700], ..spec.clone() };
        one.build_with(|packet| {
            if all || index == 1 {
                change(packet)
            }
        })
    };
    (0..3).map(packet).collect()
}

#[test]
fn lengths_that_contradict_each_other_are_left_alone() {
    for spec in every_kind() {
        assert_eq!(counts(&three(&spec, true, |_| ())), [3]);
        let low_byte_of_length = if spec.is_v4 { 3 } else { 5 };
        for all in [false, true] {
            let packets = three(&spec, all, |packet| packet[low_byte_of_length] ^= 1);
            assert_eq!(counts(&packets), [1, 1, 1], "the IP header's");
            if !spec.is_tcp {
                let packets = three(&spec, all, |packet| packet[spec.transport() + 5] ^= 1);
                assert_eq!(counts(&packets), [1, 1, 1], "the UDP header's");
            }
        }
    }
}

#[test]
fn fragments_and_unknown_bits_are_left_alone() {
    for spec in every_kind() {
        for all in [false, true] {
            if spec.is_tcp {
                for bit in [1, 2, 4, 8] {
                    let packets = three(&spec, all, |packet| packet[spec.transport() + 12] |= bit);
                    assert_eq!(counts(&packets), [1, 1, 1], "reserved in TCP, {bit}");
                }
            }
            if spec.is_v4 {
                assert_eq!(counts(&three(&spec, all, |packet| packet[6] |= 0x20)), [1, 1, 1], "first fragments");
                assert_eq!(counts(&three(&spec, all, |packet| packet[7] |= 0x05)), [1, 1, 1], "others");
            }
        }
    }
}

/// How many flows [`Merge`] collects at the same time.
const FLOWS: u8 = 16;

#[test]
fn flows_are_collected_side_by_side() {
    let flows = (1..=FLOWS).map(|host| Spec { host, ..Spec::tcp(host % 2 == 0) });
    let streams: Vec<_> = flows.map(|spec| stream(&spec, 100, 1000)).collect();
    let interleaved: Vec<_> = (0..10).flat_map(|at| streams.iter().map(move |stream| stream[at].clone())).collect();
    let writes = merged(&interleaved);
    assert_eq!(
        writes.iter().map(cut).collect::<Vec<_>>(),
        streams,
        "one write for each flow, in the order of their first packets"
    );
}

#[test]
fn one_flow_too_many_closes_the_oldest() {
    let flows = (0..=FLOWS).map(|host| Spec { host, ..Spec::udp(true) });
    let streams: Vec<_> = flows.map(|spec| stream(&spec, 100, 200)).collect();
    let mut interleaved: Vec<_> = streams.iter().map(|stream| stream[0].clone()).collect();
    interleaved.extend([16, 1, 0].map(|flow: usize| streams[flow][1].clone()));
    let counts: Vec<_> = merged(&interleaved).iter().map(|write| cut(write).len()).collect();
    assert_eq!(counts, [1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1]);
}

#[test]
fn nothing_overtakes_a_packet_without_a_flow() {
    let packets = stream(&Spec::tcp(true), 100, 400);
    let mut ping = packets[0].clone();
    ping[9] = 1;
    let mut fragment = packets[0].clone();
    fragment[6] = 0x20;
    let mut rest = packets[0].clone();
    rest[7] = 9;
    for other in [ping, fragment, rest, vec![], vec![0x45], vec![0xff; 60]] {
        let all = [&packets[0], &packets[1], &other, &packets[2], &packets[3]].map(Clone::clone);
        let writes = merged(&all);
        assert_eq!(writes.len(), 3);
        assert_eq!((cut(&writes[0]), cut(&writes[2])), (packets[..2].to_vec(), packets[2..].to_vec()));
        assert_eq!(writes[1], (VnetHeader::PLAIN, other));
    }
}

#[test]
fn nothing_is_joined_across_receptions() {
    let mut joining = Merge::new(true, true);
    for spec in every_kind() {
        for packets in stream(&spec, 100, 600).chunks(3) {
            let writes = merge(&mut joining, packets);
            assert_eq!(writes.iter().map(cut).collect::<Vec<_>>(), [packets]);
        }
    }
}

#[test]
fn what_the_interface_does_not_take_is_not_joined() {
    for spec in every_kind() {
        let packets = stream(&spec, 100, 400);
        assert_eq!(merge(&mut Merge::new(spec.is_tcp, !spec.is_tcp), &packets).len(), 1);
        assert_eq!(merge(&mut Merge::new(!spec.is_tcp, spec.is_tcp), &packets).len(), 4);
    }
}

/// A packet of one of several flows. Most continue their flow; some have other headers, or arrive damaged.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    len: usize,
    change: u8,
    damage: Option<(usize, u8)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![8 => Just(200_usize), 1 => 0_usize..400, 1 => Just(1380_usize)];
    let change = prop_oneof![6 => Just(255_u8), 1 => 0_u8..13];
    let damage = prop_oneof![9 => Just(None), 1 => (any::<usize>(), any::<u8>()).prop_map(Some)];
    let step =
        (0_usize..6, len, change, damage).prop_map(|(flow, len, change, damage)| Step { flow, len, change, damage });
    prop::collection::vec(step, 0..50)
}

/// The packets of `steps`, each with its flow as [`flow_of`] reads it.
fn packets(mut flows: Vec<Spec>, steps: &[Step]) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let build = |step: &Step| {
        let flow = &mut flows[step.flow];
        let mut one =
            flow.clone().with_payload((0..step.len).map(|i| (i as u8).wrapping_mul(step.flow as u8)).collect());
        match step.change {
            0 => one.class ^= 3,
            1 => one.flags ^= 0x08,
            2 => one.flags ^= 0x01,
            3 => one.id = one.id.wrapping_add(1),
            4 => one.sequence = one.sequence.wrapping_add(1),
            5 => one.options = vec![1; 4],
            6 => one.network_options = if one.is_v4 { vec![1; 4] } else { vec![0; 6] },
            7 => flow.window ^= 1,
            8 => flow.acknowledged ^= 0x100,
            9 => one.hops ^= 1,
            10 => one.flags ^= 0x80,
            11 => flow.flags = 0x10,
            12 => flow.network_options.clear(),
            _ => {}
        }
        flow.sequence = flow.sequence.wrapping_add(step.len as u32);
        flow.id = flow.id.wrapping_add(1);
        let mut packet = one.build();
        if let Some((at, by)) = step.damage {
            let at = at % packet.len();
            packet[at] ^= by;
        }
        packet
    };
    steps.iter().map(build).map(|packet: Vec<u8>| (flow_of(&packet), packet)).collect()
}

/// Protocol, addresses and ports of a packet that has them behind an IP header without options.
fn flow_of(packet: &[u8]) -> Option<Vec<u8>> {
    let (protocol, header) = match packet[0] {
        0x45 if packet[6] & 0x3f == 0 && packet[7] == 0 => (packet[9], 20),
        0x60..=0x6f if packet.len() >= 40 => (packet[6], 40),
        _ => return None,
    };
    let addresses = if header == 20 { &packet[12..20] } else { &packet[8..40] };
    let whole = packet.len() >= header + if protocol == 6 { 20 } else { 8 };
    (whole && matches!(protocol, 6 | 17)).then(|| [&[protocol], addresses, &packet[header..header + 4]].concat())
}

proptest! {
    #[test]
    fn cutting_gives_the_same_packets_in_the_same_order(
        mut flows in prop::collection::vec(specs(Just(0)), 6),
        steps in steps(),
        plain in any::<bool>(),
        reception in 1_usize..60,
    ) {
        for flow in &mut flows {
            if plain {
                flow.network_options.clear();
                flow.flags = 0x10;
            }
        }
        let packets = packets(flows, &steps);
        let bytes: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
        let mut joining = Merge::new(true, true);
        let receptions = bytes.chunks(reception);
        let all: Vec<_> = receptions.flat_map(|packets| merge(&mut joining, packets)).flat_map(|write| cut(&write)).collect();
        prop_assert_eq!(all.len(), packets.len());
        // The packets of each flow keep their order, also relative to those without a flow.
        let mut flows: Vec<_> = packets.iter().filter_map(|(flow, _)| flow.clone()).collect();
        flows.sort();
        flows.dedup();
        for flow in flows {
            let of_flow = |packet: &&Vec<u8>| flow_of(packet).is_none_or(|other| other == flow);
            let before: Vec<_> = bytes.iter().filter(of_flow).collect();
            let after: Vec<_> = all.iter().filter(of_flow).collect();
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn undisturbed_streams_need_one_write_each(
        mut flows in prop::collection::vec(specs(1_usize..4000), 1..10),
        size in 100_usize..1400,
        order in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        for (host, flow) in flows.iter_mut().enumerate() {
            (flow.host, flow.flags) = (host as u8, 0x10);
            flow.network_options.clear();
        }
        let streams: Vec<_> = flows.iter().map(|flow| flow.segments(size)).collect();
        let mut left: Vec<_> = streams.iter().map(|stream| stream.iter()).collect();
        let mut mixed = Vec::new();
        for index in order {
            let index = index.index(left.len());
            mixed.extend(left[index].next().cloned());
        }
        mixed.extend(left.into_iter().flatten().cloned());
        let writes = merged(&mixed);
        prop_assert_eq!(writes.len(), streams.len());
        for write in writes {
            prop_assert!(streams.contains(&cut(&write)));
        }
    }
}
