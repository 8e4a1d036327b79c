//! Packets that are longer than what a path carries.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::packets::{Spec, naive_sum, specs};
use crate::Outgoing;
use crate::too_big::too_big;
use crate::vnet::VnetHeader;

/// The packets after [`Outgoing::fit`]; `None` where they cannot be made shorter.
fn fitted(vnet: &VnetHeader, mut packet: Vec<u8>, mtu: u16) -> Option<Vec<Vec<u8>>> {
    let mut outgoing = Outgoing::parse(vnet, &mut packet).unwrap();
    let before = (outgoing.count(), outgoing.longest());
    if !outgoing.fit(mtu) {
        assert_eq!((outgoing.count(), outgoing.longest()), before);
        return None;
    }
    let one = |index| {
        let mut out = vec![0xee; outgoing.longest()];
        let len = outgoing.write(index, &mut out);
        out.truncate(len);
        assert!(len <= usize::from(mtu), "{len} bytes");
        out
    };
    Some((0..outgoing.count()).map(one).collect())
}

/// What a receiver makes of fragments, which come in any order.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let (mut parts, mut whole) = (BTreeMap::new(), None);
    for fragment in fragments {
        let header = usize::from(fragment[0] & 0x0f) * 4;
        let place = u16::from_be_bytes([fragment[6], fragment[7]]);
        assert_eq!((naive_sum(&fragment[..header]), place & 0x4000), (0xffff, 0));
        assert_eq!(usize::from(u16::from_be_bytes([fragment[2], fragment[3]])), fragment.len());
        parts.insert(usize::from(place & 0x1fff) * 8, &fragment[header..]);
        if place & 0x1fff == 0 {
            whole = Some(fragment[..header].to_vec());
        }
        let is_last = usize::from(place & 0x1fff) * 8 + fragment.len() - header == end(fragments);
        assert_eq!(place & 0x2000 == 0, is_last);
    }
    let mut whole = whole.unwrap();
    let header = whole.len();
    for (at, part) in parts {
        assert_eq!(whole.len() - header, at, "without a gap");
        whole.extend(part);
    }
    let len = whole.len() as u16;
    whole[2..4].copy_from_slice(&len.to_be_bytes());
    whole[6..8].fill(0);
    whole[10..12].fill(0);
    let sum = !naive_sum(&whole[..header]);
    whole[10..12].copy_from_slice(&sum.to_be_bytes());
    whole
}

fn end(fragments: &[Vec<u8>]) -> usize {
    let end = |fragment: &Vec<u8>| {
        usize::from(u16::from_be_bytes([fragment[6], fragment[7]]) & 0x1fff) * 8 + fragment.len()
            - usize::from(fragment[0] & 0x0f) * 4
    };
    fragments.iter().map(end).max().unwrap()
}

/// Without what makes a segment one of its own kind.
fn plain(spec: Spec) -> Spec {
    // Nor a signature, wherever options are read from.
    let options = spec.options.into_iter().map(|byte| if [19, 29].contains(&byte) { 1 } else { byte }).collect();
    Spec { flags: spec.flags & !0x26, options, ..spec }
}

#[test]
fn a_wrong_checksum_does_not_become_right() {
    for is_v4 in [true, false] {
        let mut packet = Spec::tcp(is_v4).with_payload(vec![7; 1000]).build();
        assert_eq!(fitted(&VnetHeader::PLAIN, packet.clone(), 800).unwrap().len(), 2);
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(fitted(&VnetHeader::PLAIN, packet, 800), None);
    }
}

#[test]
fn what_cannot_be_cut_is_not() {
    let payload = vec![7; 1000];
    for flags in [0x02, 0x12, 0x04, 0x30] {
        let spec = Spec { flags, ..Spec::tcp(true) }.with_payload(payload.clone());
        assert_eq!(fitted(&VnetHeader::PLAIN, spec.build(), 800), None, "flags {flags:02x}");
    }
    for kind in [19, 29] {
        let options = [&[1, 1, kind, 18][..], &[5; 16]].concat();
        let spec = Spec { options, ..Spec::tcp(true) }.with_payload(payload.clone());
        assert_eq!(fitted(&VnetHeader::PLAIN, spec.build(), 800), None, "signed");
    }
    for is_v4 in [true, false] {
        let spec = Spec::udp(is_v4).with_payload(payload.clone());
        assert_eq!(fitted(&VnetHeader::PLAIN, spec.build(), 800), None, "it must not be fragmented");
        let (vnet, superpacket) = Spec { dont_fragment: false, ..spec }.superpacket(900);
        assert_eq!(fitted(&vnet, superpacket, 800), None, "many datagrams");
    }
    assert_eq!(fitted(&VnetHeader::PLAIN, Spec::tcp(true).with_payload(payload).build(), 52), None, "no room for data");
}

/// A fragment of a fragment lies where it does in the whole, and options that are for the first alone are in no other.
#[test]
fn fragments_are_fragmented_and_keep_the_options_that_go_into_each() {
    const COPIED: [u8; 4] = [0x94, 4, 0, 0];
    let network_options = [&[7, 3, 4, 1][..], &COPIED].concat();
    let payload = (0..2000_u32).map(|i| i as u8).collect();
    let spec = Spec { dont_fragment: false, network_options, ..Spec::udp(true) }.with_payload(payload);
    let first = fitted(&VnetHeader::PLAIN, spec.build(), 1228).unwrap();
    assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1228, 28 + 2008 - 1200]);
    let all: Vec<_> =
        first.into_iter().flat_map(|fragment| fitted(&VnetHeader::PLAIN, fragment, 400).unwrap()).collect();
    for (index, fragment) in all.iter().enumerate() {
        assert_eq!(fragment[20..24], if index == 0 { [7, 3, 4, 1] } else { [1; 4] });
        assert_eq!(fragment[24..28], COPIED);
    }
    assert_eq!(reassembled(&all), spec.build());
}

#[test]
fn the_sender_is_told_of_its_packet_by_the_destination() {
    for spec in [Spec::udp(true), Spec::udp(false)] {
        let packet = spec.with_payload(vec![3; 1300]).build();
        let message = Outgoing::parse(&VnetHeader::PLAIN, &mut packet.clone()).unwrap().too_big(1340).unwrap();
        if packet[0] == 0x45 {
            assert_eq!((message.len(), message[9], naive_sum(&message[..20])), (576, 1, 0xffff));
            assert_eq!((&message[12..16], &message[16..20]), (&packet[16..20], &packet[12..16]));
            assert_eq!((message[20..22].to_vec(), naive_sum(&message[20..])), (vec![3, 4], 0xffff));
            assert_eq!((&message[24..28], &message[28..]), (&[0, 0, 0x05, 0x3c][..], &packet[..548]));
        } else {
            assert_eq!((message.len(), message[6]), (1280, 58));
            assert_eq!((&message[8..24], &message[24..40]), (&packet[24..40], &packet[8..24]));
            let pseudo = [&message[8..40], &1240_u32.to_be_bytes(), &[0, 0, 0, 58], &message[40..]].concat();
            assert_eq!((message[40..42].to_vec(), naive_sum(&pseudo)), (vec![2, 0], 0xffff));
            assert_eq!((&message[44..48], &message[48..]), (&[0, 0, 0x05, 0x3c][..], &packet[..1232]));
        }
        assert_eq!(too_big(&message, 1340), None, "an error about an error");
    }
    // Of a superpacket, the first packet, with the headers that it would have.
    let spec = Spec::udp(true).with_payload(vec![3; 5000]);
    let (vnet, mut superpacket) = spec.superpacket(1372);
    let message = Outgoing::parse(&vnet, &mut superpacket).unwrap().too_big(1340).unwrap();
    assert_eq!(message[28..], spec.segments(1372)[0][..548]);
}

#[test]
fn nothing_is_sent_to_whom_no_error_may_be_sent() {
    let v4 = Spec::udp(true).with_payload(vec![3; 100]).build();
    let v6 = Spec::udp(false).with_payload(vec![3; 100]).build();
    let with = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        too_big(&packet, 1300)
    };
    assert!(with(&v4, 6, &[0x20, 0]).is_some() && with(&v6, 24, &[0xfe]).is_some());
    assert_eq!(with(&v4, 6, &[0, 1]), None, "not the first fragment");
    for (at, address) in [(12, [0; 4]), (12, [224, 0, 0, 1]), (12, [127, 0, 0, 1]), (16, [255; 4])] {
        assert_eq!(with(&v4, at, &address), None, "{address:?}");
    }
    assert_eq!([with(&v6, 8, &[0xff]), with(&v6, 8, &[0; 16]), with(&v6, 24, &[0xff])], [None, None, None]);
    assert_eq!([too_big(&[], 9), too_big(&[0x45; 19], 9), too_big(&[0x60; 39], 9)], [None, None, None]);
}

proptest! {
    #[test]
    fn tcp_is_as_if_it_had_been_sent_in_shorter_segments(
        spec in specs(1_usize..5000), size in 40_usize..2000, mtu in 576_u16..1500,
    ) {
        let spec = plain(Spec { is_tcp: true, ..spec });
        let headers = spec.build().len() - spec.payload.len();
        let fits = spec.segments(size.min(usize::from(mtu) - headers));
        let (vnet, superpacket) = spec.superpacket(size);
        prop_assert_eq!(fitted(&vnet, superpacket, mtu).unwrap(), fits);
        // A single packet whose checksum is complete, and one whose checksum is not.
        let fits = spec.segments(usize::from(mtu) - headers);
        prop_assert_eq!(&fitted(&VnetHeader::PLAIN, spec.build(), mtu).unwrap(), &fits);
        let partial = VnetHeader { checksum: Some(spec.partial()), ..VnetHeader::PLAIN };
        prop_assert_eq!(fitted(&partial, spec.build_partial(), mtu).unwrap(), fits);
    }

    #[test]
    fn fragments_are_put_together_again(spec in specs(1_usize..5000), mtu in 100_u16..1500) {
        let spec = Spec { is_v4: true, is_tcp: false, dont_fragment: false, network_options: Vec::new(), ..spec };
        let fragments = fitted(&VnetHeader::PLAIN, spec.build(), mtu).unwrap();
        prop_assert_eq!(reassembled(&fragments), spec.build());
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(
        first in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]), mtu in any::<u16>(),
        mut bytes in prop::collection::vec(prop::sample::select(vec![0, 1, 6, 17, 44, 60, 0x50, 0xff]), 0..200),
        says_its_length in any::<bool>(),
    ) {
        if bytes.len() > 3 {
            let len = bytes.len() as u16;
            bytes[0] = first;
            if says_its_length {
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
        }
        let _ = too_big(&bytes, mtu);
        if let Ok(mut outgoing) = Outgoing::parse(&VnetHeader::PLAIN, &mut bytes) && outgoing.fit(mtu) {
            let mut out = vec![0; outgoing.longest()];
            prop_assert!((0..outgoing.count()).all(|index| outgoing.write(index, &mut out) <= out.len()));
        }
    }
}
