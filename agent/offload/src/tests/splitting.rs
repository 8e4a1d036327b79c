//! One superpacket into packets.

use proptest::prelude::*;

use super::packets::{Spec, naive_sum, specs};
use crate::vnet::{Gso, GsoKind, PartialChecksum, VnetHeader};
use crate::{Malformed, Outgoing};

fn cut(vnet: &VnetHeader, packet: &mut [u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let outgoing = Outgoing::parse(vnet, packet)?;
    let one = |index| {
        let mut out = vec![0xee; outgoing.longest() + 3];
        let len = outgoing.write(index, &mut out);
        assert!(
            len <= outgoing.longest() && out[outgoing.longest()..] == [0xee; 3],
            "written beyond the longest packet"
        );
        out.truncate(len);
        out
    };
    Ok((0..outgoing.count()).map(one).collect())
}

#[test]
fn forty_five_tcp_segments_that_wrap_around() {
    for is_v4 in [true, false] {
        let spec = Spec { flags: 0x99, ..Spec::tcp(is_v4) }.with_payload((0..62_100_u32).map(|i| i as u8).collect());
        let (vnet, mut packet) = spec.superpacket(1380);
        let segments = cut(&vnet, &mut packet).unwrap();
        assert_eq!(segments.len(), 45);
        assert!(segments.iter().all(|segment| segment.len() == spec.transport() + 32 + 1380));
        assert_eq!(segments, spec.segments(1380));
    }
}

#[test]
fn the_longest_superpackets() {
    let spec = Spec::udp(true).with_payload(vec![7; 65_535 - 28]);
    let (vnet, mut packet) = spec.superpacket(1);
    assert_eq!(cut(&vnet, &mut packet).unwrap().len(), 65_507);
    let (vnet, mut packet) = spec.superpacket(65_535);
    assert_eq!(cut(&vnet, &mut packet).unwrap(), [spec.build()]);
    packet.push(0);
    assert_eq!(cut(&vnet, &mut packet), Err(Malformed::Headers), "longer than an IP packet can be");
}

#[test]
fn a_routing_header_decides_the_destination_that_is_summed() {
    // As the kernel gives it: the sum in the checksum field is over the last hop's address, not over the next one's.
    let spec = Spec { network_options: vec![0; 6], ..Spec::tcp(false) }.with_payload(vec![5; 3000]);
    let (vnet, mut packet) = spec.superpacket(1000);
    packet[6] = 43;
    packet[39] ^= 0x55;
    for (segment, mut expected) in cut(&vnet, &mut packet).unwrap().into_iter().zip(spec.segments(1000)) {
        expected[6] = 43;
        expected[39] ^= 0x55;
        assert_eq!(segment, expected);
    }
}

#[test]
fn less_than_one_packet_is_one() {
    for payload in [vec![], vec![8; 99]] {
        let spec = Spec { flags: 0x99, ..Spec::tcp(true) }.with_payload(payload);
        let (vnet, mut packet) = spec.superpacket(100);
        assert_eq!(cut(&vnet, &mut packet).unwrap(), [spec.build()]);
    }
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let spec = Spec::tcp(true).with_payload(vec![1; 5000]);
    let (vnet, packet) = spec.superpacket(1000);
    let refused = |vnet: VnetHeader, change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.clone();
        change(&mut packet);
        cut(&vnet, &mut packet).expect_err("refused")
    };
    let kind = |kind| VnetHeader { gso: vnet.gso.map(|gso| Gso { kind, ..gso }), ..vnet };
    let partial = |start, offset| VnetHeader { checksum: Some(PartialChecksum { start, offset }), ..vnet };
    assert_eq!(refused(kind(GsoKind::TcpV6), &|_| ()), Malformed::Headers);
    assert_eq!(refused(kind(GsoKind::Udp), &|_| ()), Malformed::Headers);
    assert_eq!(refused(partial(24, 16), &|_| ()), Malformed::Checksum);
    assert_eq!(refused(partial(20, 6), &|_| ()), Malformed::Checksum);
    assert_eq!(refused(partial(65_535, 65_535), &|_| ()), Malformed::Checksum);
    assert_eq!(refused(vnet, &|packet| packet.truncate(51)), Malformed::Headers);
    assert_eq!(refused(vnet, &|packet| packet.truncate(19)), Malformed::NotIp);
    assert_eq!(refused(vnet, &|packet| packet.clear()), Malformed::NotIp);
    assert_eq!(refused(vnet, &|packet| packet[0] = 0x44), Malformed::Headers);
    assert_eq!(refused(vnet, &|packet| packet[0] = 0x25), Malformed::NotIp);
    assert_eq!(refused(vnet, &|packet| packet[9] = 17), Malformed::Headers);
    assert_eq!(refused(vnet, &|packet| packet[32] = 0x40), Malformed::Headers);
    assert_eq!(refused(vnet, &|packet| packet[6] = 0x20), Malformed::Headers, "a fragment");
}

#[test]
fn a_single_packet_goes_as_it_is_but_for_a_checksum_to_complete() {
    let spec = Spec::udp(false).with_payload(vec![3; 101]);
    let mut complete = spec.build();
    complete[46] ^= 1; // wrong, and to stay so
    let before = complete.clone();
    assert_eq!(cut(&VnetHeader::PLAIN, &mut complete).unwrap(), [before]);

    let needs = VnetHeader { checksum: Some(spec.partial()), ..VnetHeader::PLAIN };
    assert_eq!(cut(&needs, &mut spec.build_partial()).unwrap(), [spec.build()]);
    for (start, offset) in [(spec.transport() as u16, 8 + 101 - 1), (0, 6), (65_535, 65_535)] {
        let beyond = VnetHeader { checksum: Some(PartialChecksum { start, offset }), ..VnetHeader::PLAIN };
        assert_eq!(cut(&beyond, &mut spec.build_partial()), Err(Malformed::Checksum));
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    let spec = Spec::udp(true);
    let zero = (0..=u16::MAX).map(|word| spec.clone().with_payload(word.to_be_bytes().into()));
    let zero = zero.into_iter().find(|spec| naive_sum(&spec.build_partial()[20..]) == u16::MAX).unwrap();
    let needs = VnetHeader { checksum: Some(zero.partial()), ..VnetHeader::PLAIN };
    let (superpacket, mut packet) = zero.superpacket(1000);
    for written in [cut(&needs, &mut zero.build_partial()), cut(&superpacket, &mut packet)] {
        assert_eq!(written.unwrap()[0][26..28], [0xff, 0xff]);
    }
}

proptest! {
    #[test]
    fn the_packets_are_those_that_were_never_joined(spec in specs(1_usize..5000), size in prop_oneof![1 => 1_usize..40, 5 => 40_usize..2000]) {
        let (vnet, mut packet) = spec.superpacket(size);
        prop_assert_eq!(cut(&vnet, &mut packet).unwrap(), spec.segments(size));
        let complete = VnetHeader { checksum: None, ..vnet };
        prop_assert_eq!(cut(&complete, &mut spec.build()).unwrap(), spec.segments(size), "without a sum to begin with");
    }

    #[test]
    fn a_checksum_is_completed(spec in specs(0_usize..3000)) {
        let needs = VnetHeader { checksum: Some(spec.partial()), ..VnetHeader::PLAIN };
        let mut packet = spec.build_partial();
        let outgoing = Outgoing::parse(&needs, &mut packet).unwrap();
        let mut out = vec![0; outgoing.longest()];
        outgoing.write(0, &mut out);
        let mut expected = spec.build();
        let checksum = spec.transport() + usize::from(spec.partial().offset);
        if expected[checksum..checksum + 2] == [0; 2] {
            expected[checksum..checksum + 2].fill(0xff);
        }
        prop_assert_eq!(out, expected);
    }
}
