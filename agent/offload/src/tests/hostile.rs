//! Bytes that are anything, or nearly a packet.

use std::io::IoSlice;

use proptest::prelude::*;

use super::packets::specs;
use crate::{Merge, Outgoing, VNET_LEN, VnetHeader, clamp_mss};

/// Arbitrary bytes, and packets with some bytes replaced and the end cut off: these reach further.
fn nearly_packets() -> impl Strategy<Value = Vec<u8>> {
    let replaced = prop::collection::vec((0_usize..80, any::<u8>()), 0..4);
    let broken = (specs(0_usize..200), replaced, any::<prop::sample::Index>(), 0..4_u8).prop_map(
        |(spec, replaced, end, cut)| {
            let mut packet = spec.build();
            for (at, by) in replaced {
                let at = at % packet.len();
                packet[at] = by;
            }
            if cut == 0 {
                packet.truncate(end.index(packet.len()));
            }
            packet
        },
    );
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..120), 4 => broken]
}

fn vnet_headers() -> impl Strategy<Value = [u8; VNET_LEN]> {
    let small = (0_u8..8, 0_u8..8, any::<u16>(), 0_u16..100, 0_u16..100, 0_u16..20).prop_map(
        |(flags, kind, header_len, size, start, offset)| {
            let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
            for (field, value) in bytes[2..].chunks_mut(2).zip([header_len, size, start, offset]) {
                field.copy_from_slice(&value.to_ne_bytes());
            }
            bytes
        },
    );
    prop_oneof![small, any::<[u8; VNET_LEN]>()]
}

proptest! {
    #[test]
    fn anything_from_the_interface_is_cut_or_refused(
        vnet in vnet_headers(),
        mut packet in nearly_packets(),
        mtu in any::<u16>(),
    ) {
        let Ok(vnet) = VnetHeader::parse(&vnet) else { return Ok(()) };
        let before = packet.len();
        let Ok(mut outgoing) = Outgoing::parse(&vnet, &mut packet) else { return Ok(()) };
        outgoing.clamp_mss(mtu);
        let mut out = vec![0; outgoing.longest()];
        let lens: Vec<_> = (0..outgoing.count()).map(|index| outgoing.write(index, &mut out)).collect();
        prop_assert_eq!(lens.iter().max(), Some(&outgoing.longest()));
        prop_assert!(outgoing.longest() <= before);
        prop_assert!(lens.windows(2).all(|pair| pair[0] >= pair[1]), "only the last may be shorter");
    }

    #[test]
    fn anything_from_peers_is_handed_over_whole(packets in prop::collection::vec(nearly_packets(), 0..20)) {
        let mut merge = Merge::new(true, true);
        let mut arena = packets.concat();
        let mut at = 0;
        for packet in &packets {
            merge.push(&arena, at..at + packet.len());
            at += packet.len();
        }
        let mut count = 0;
        let mut payload = 0;
        merge.drain(&mut arena, |slices: &[IoSlice<'_>]| {
            count += slices.len() - 1;
            payload += slices[1..].iter().map(|slice| slice.len()).sum::<usize>();
        });
        prop_assert_eq!(count, packets.len());
        prop_assert!(payload <= arena.len());
    }

    #[test]
    fn clamping_takes_any_bytes_and_keeps_the_length(mut packet in nearly_packets(), mtu in any::<u16>()) {
        let before = packet.clone();
        clamp_mss(&mut packet, mtu);
        let changed = before.iter().zip(&packet).filter(|(before, after)| before != after).count();
        prop_assert!(changed == 0 || before[0] >> 4 == 4 || before[0] >> 4 == 6);
        prop_assert_eq!(before.len(), packet.len());
    }
}
