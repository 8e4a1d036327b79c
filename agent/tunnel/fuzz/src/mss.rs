//! The beginning of TCP connections, whose segment size is lowered.

use mesh_offload::clamp_mss;

use super::input::Input;
use super::packets::{Found, complete};

const SYN: u8 = 0x02;

/// An MTU and a packet, whose checksums are made right where the byte between them is odd.
pub fn mss(input: &[u8]) {
    let mut input = Input::new(input);
    let (mtu, choice) = (input.u16(), input.byte());
    let mut before = input.rest().to_vec();
    if choice & 1 != 0 {
        complete(&mut before, false);
    }
    let mut packet = before.clone();
    clamp_mss(&mut packet, mtu);
    let Some(found) = Found::within(&before).filter(|found| found.is_tcp && before[found.start + 13] & SYN != 0) else {
        assert_eq!(packet, before, "not the first of a connection");
        return;
    };
    assert_eq!(found.is_intact(&packet), found.is_intact(&before), "{before:02x?} became {packet:02x?}");
    let mut expected = before.clone();
    let most = mtu.saturating_sub(if found.is_v4 { 40 } else { 60 });
    lower(&mut expected[found.start + 20..found.payload], most);
    let at = found.checksum();
    if expected == before {
        assert_eq!(packet, before);
    } else {
        expected[at..at + 2].copy_from_slice(&packet[at..at + 2]);
        assert_eq!(packet, expected, "from {before:02x?}");
    }
}

/// Lowers every maximum segment size among TCP options, as far as their lengths are valid; zero is no size.
fn lower(mut options: &mut [u8], most: u16) {
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest) {
            (0, _) => return,
            (1, _) => 1,
            (2, [4, high, low, ..]) => {
                if most > 0 && u16::from_be_bytes([*high, *low]) > most {
                    [*high, *low] = most.to_be_bytes();
                }
                4
            }
            (_, [len, ..]) if *len > 1 => usize::from(*len),
            _ => return,
        };
        options = options.get_mut(len..).unwrap_or_default();
    }
}
