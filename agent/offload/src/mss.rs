//! The largest segment that a TCP connection may send through the tunnel.

use crate::checksum::Sum;
use crate::headers::{Family, Protocol, Transport, array, put, tcp};

/// Kinds of options (RFC 9293, section 3.1). All but the first two have their length behind the kind.
const END: u8 = 0;
const NOTHING: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Those of RFC 2385 and RFC 5925.
const SIGNATURES: [u8; 2] = [19, 29];

/// Lowers the maximum segment size that a connection's first packet announces to what fits packets of `mtu` bytes: `mtu` without IP
/// and TCP headers, options not counted (RFC 9293, section 3.7.1). A host that reaches the tunnel through this node does not know
/// the tunnel's MTU, and would otherwise send packets that are too long. Nothing else is changed: the size is never raised, and
/// never added where it is missing. A wrong checksum stays wrong. Bytes that are no such packet are left alone.
///
/// To be called for packets of both directions, with complete checksums, before they are merged.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) {
    let Some(found) = Transport::find(packet).filter(|found| found.protocol == Protocol::Tcp) else {
        return;
    };
    let headers = match found.family {
        Family::V4 => 40,
        Family::V6 => 60,
    };
    let header = &mut packet[found.start..found.payload];
    let Some(most) = mtu.checked_sub(headers).filter(|most| *most > 0) else {
        return;
    };
    if header[tcp::FLAGS] & tcp::SYN == 0 {
        return;
    }
    let mut at = tcp::OPTIONS;
    while let Some((kind, len)) = option(header, at) {
        if kind == MAXIMUM_SEGMENT_SIZE && len == 4 && at + 4 <= header.len() {
            lower(header, at + 2, most);
        }
        at += len;
    }
}

/// Whether a TCP header has a signature, which is over its segment's data too.
pub(crate) fn is_signed(header: &[u8]) -> bool {
    let mut at = tcp::OPTIONS;
    while let Some((kind, len)) = option(header, at) {
        if SIGNATURES.contains(&kind) {
            return true;
        }
        at += len;
    }
    false
}

/// Kind and length of the option at that place of a TCP header; `None` where there is no further one.
fn option(header: &[u8], at: usize) -> Option<(u8, usize)> {
    match (*header.get(at)?, *header.get(at + 1)?) {
        // The length counts kind and length themselves. Below two it is invalid, and where the next option begins is unknown.
        (END, _) => None,
        (NOTHING, _) => Some((NOTHING, 1)),
        (_, 0 | 1) => None,
        (kind, len) => Some((kind, len.into())),
    }
}

/// Makes the number at `at` in a TCP header at most `most`, and updates the checksum by the difference (RFC 1624), so that it is as
/// right or wrong as before.
fn lower(header: &mut [u8], at: usize, most: u16) {
    let old = array(header, at);
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    put(header, at, new);
    // At an odd place, each byte counts in the other half of a word.
    let in_words = |[high, low]: [u8; 2]| {
        if at.is_multiple_of(2) { [high, low] } else { [low, high] }
    };
    let sum = Sum::without(array(header, tcp::CHECKSUM)) + Sum::without(in_words(old)) + Sum::word(in_words(new));
    put(header, tcp::CHECKSUM, sum.checksum());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::packets::Spec;
    use proptest::prelude::*;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;

    fn with_options(is_v4: bool, flags: u8, options: &[u8]) -> Spec {
        Spec { flags, options: options.to_vec(), ..Spec::tcp(is_v4) }
    }

    #[track_caller]
    fn clamped(spec: &Spec, mtu: u16) -> Vec<u8> {
        let mut packet = spec.build();
        clamp_mss(&mut packet, mtu);
        packet
    }

    #[test]
    fn what_does_not_fit_is_lowered_to_what_fits() {
        for flags in [SYN, SYN_ACK] {
            let announced = with_options(true, flags, &[2, 4, 0x05, 0xb4, 1, 3, 3, 7]);
            assert_eq!(clamped(&announced, 1420), with_options(true, flags, &[2, 4, 0x05, 0x64, 1, 3, 3, 7]).build());
            let announced = with_options(false, flags, &[2, 4, 0x05, 0xa0, 1, 3, 3, 7]);
            assert_eq!(clamped(&announced, 1420), with_options(false, flags, &[2, 4, 0x05, 0x50, 1, 3, 3, 7]).build());
        }
    }

    #[test]
    fn at_an_odd_place_too() {
        let announced = with_options(true, SYN, &[1, 2, 4, 0xff, 0xff, 1, 1, 0]);
        assert_eq!(clamped(&announced, 1420), with_options(true, SYN, &[1, 2, 4, 0x05, 0x64, 1, 1, 0]).build());
    }

    #[test]
    fn behind_options_and_extension_headers() {
        for (is_v4, network_options, low) in [(true, vec![1; 8], 0x64), (false, vec![0; 14], 0x50)] {
            let spec = |mss: [u8; 2]| Spec {
                network_options: network_options.clone(),
                ..with_options(is_v4, SYN, &[2, 4, mss[0], mss[1]])
            };
            assert_eq!(clamped(&spec([9, 9]), 1420), spec([0x05, low]).build());
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        let untouched = [
            with_options(true, SYN, &[2, 4, 0x05, 0x64]),             // fits
            with_options(true, SYN, &[2, 4, 0, 88]),                  // never raised
            with_options(true, SYN, &[]),                             // never added
            with_options(true, 0x10, &[2, 4, 0xff, 0xff]),            // not at the beginning of a connection
            with_options(true, SYN, &[0, 2, 4, 0xff, 0xff, 0, 0, 0]), // behind the end
            with_options(true, SYN, &[0, 4, 9, 9, 2, 4, 0xff, 0xff]),
            with_options(true, SYN, &[3, 0, 2, 4, 0xff, 0xff, 0, 0]), // behind a length of zero
            with_options(true, SYN, &[3, 1, 2, 4, 0xff, 0xff, 0, 0]), // and of one
            with_options(true, SYN, &[3, 200, 2, 4, 0xff, 0xff, 0, 0]), // inside another
            with_options(true, SYN, &[2, 3, 0xff, 2, 5, 0xff, 0xff, 0xff]), // of other lengths
            with_options(true, SYN, &[1, 1, 2, 4]),                   // cut off
            with_options(true, SYN, &[1, 1, 1, 2]),
        ];
        for spec in untouched {
            assert_eq!(clamped(&spec, 1420), spec.build(), "{:?}", spec.options);
        }
        let announced = with_options(true, SYN, &[2, 4, 0xff, 0xff]);
        assert_eq!(clamped(&announced, 40), announced.build(), "no packet fits such an MTU");
        let mut udp = Spec::udp(true).with_payload(vec![2; 60]).build();
        let before = udp.clone();
        clamp_mss(&mut udp, 1420);
        assert_eq!(udp, before);
    }

    #[test]
    fn only_the_first_of_fragments_has_it() {
        let mut first = with_options(true, SYN, &[2, 4, 0xff, 0xff]).build();
        let mut later = first.clone();
        first[6] = 0x20;
        later[7] = 1;
        let before = later.clone();
        clamp_mss(&mut first, 1420);
        clamp_mss(&mut later, 1420);
        assert_eq!(first[42..44], [0x05, 0x64]);
        assert_eq!(later, before);
    }

    proptest! {
        #[test]
        fn a_right_checksum_stays_right_and_a_wrong_one_wrong(
            is_v4 in any::<bool>(), mss in any::<u16>(), mtu in 61_u16.., odd in any::<bool>(), wrong in any::<u16>(),
        ) {
            let spec = |mss: u16| {
                let [high, low] = mss.to_be_bytes();
                let options = if odd { [1, 2, 4, high, low, 1, 1, 1] } else { [2, 4, high, low, 1, 1, 1, 1] };
                with_options(is_v4, SYN, &options)
            };
            let lowered = mss.min(mtu - if is_v4 { 40 } else { 60 });
            prop_assert_eq!(clamped(&spec(mss), mtu), spec(lowered).build());

            let mut packet = spec(mss).build();
            let field = spec(mss).transport() + tcp::CHECKSUM;
            let right = u16::from_be_bytes([packet[field], packet[field + 1]]);
            prop_assume!(wrong != right && wrong != !right && right != 0 && wrong.wrapping_add(1) > 1);
            packet[field..field + 2].copy_from_slice(&wrong.to_be_bytes());
            clamp_mss(&mut packet, mtu);
            let expected = spec(lowered).build();
            prop_assert_ne!(&packet[field..field + 2], &expected[field..field + 2]);
        }
    }
}
