//! The Internet checksum (RFC 1071): 16-bit words added in ones' complement.

use std::ops::Add;

/// Independent sums that the compiler keeps in vector registers. Of the widths tried on x86-64 without AVX this one is the
/// fastest: half the time of one 64-bit sum with carry.
const LANES: usize = 8;

/// A lane's sum of half words stays below 2^32 for so many bytes, with room to spare.
const BLOCK: usize = 1 << 20;

/// A sum of 16-bit words as they lie in memory. Ones' complement addition does not care about byte order as long as the
/// words go back to memory the same way, so that nothing is swapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, which begin at an even offset of all that is summed. An odd last byte counts as if a zero
    /// followed it.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.chunks(BLOCK).map(sum_block).sum())
    }

    /// One word that is a number, such as a length.
    pub(super) const fn number(value: u16) -> Self {
        Self(value.to_be() as u64)
    }

    /// One word as it lies in a packet.
    pub(super) const fn word(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes) as u64)
    }

    /// What takes one such word out of a sum again.
    pub(super) const fn without(bytes: [u8; 2]) -> Self {
        Self(!u16::from_ne_bytes(bytes) as u64)
    }

    /// The sum in 16 bits: what stands in a checksum field that is still to be completed.
    pub(super) fn folded(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The complement of the sum: what stands in a checksum field.
    pub(super) fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether the summed bytes, their checksum among them, are what was sent.
    pub(super) fn is_right(self) -> bool {
        self.fold() == u16::MAX
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while let carry @ 1.. = sum >> 16 {
            sum = (sum & 0xffff) + carry;
        }
        sum as u16
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// Adds up to `BLOCK` bytes. Each lane takes 32 bits at a time and keeps two sums: all of them modulo 2^32, and of their
/// upper halves. The sum of the lower halves is the difference: one operation less than taking each apart.
fn sum_block(bytes: &[u8]) -> u64 {
    let (mut whole, mut upper) = ([0_u32; LANES], [0_u32; LANES]);
    let (chunks, rest) = bytes.as_chunks::<{ LANES * 4 }>();
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<4>();
        for ((whole, upper), word) in whole.iter_mut().zip(&mut upper).zip(words) {
            let word = u32::from_ne_bytes(*word);
            *whole = whole.wrapping_add(word);
            *upper = upper.wrapping_add(word >> 16);
        }
    }
    let lanes = whole.iter().zip(&upper).map(|(whole, upper)| {
        let lower = whole.wrapping_sub(upper << 16);
        u64::from(lower) + u64::from(*upper)
    });
    lanes.sum::<u64>() + sum_rest(rest)
}

fn sum_rest(bytes: &[u8]) -> u64 {
    let (words, last) = bytes.as_chunks::<2>();
    let words: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
    words + last.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::tests::packets::naive_sum as naive;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), [0xdd, 0xf2]);
        assert_eq!(sum.checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn every_length_and_alignment() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| (i * 151 + 7) as u8).collect();
        for from in 0..16 {
            for to in from..bytes.len() {
                assert_eq!(Sum::of(&bytes[from..to]).folded(), naive(&bytes[from..to]).to_be_bytes(), "{from}..{to}");
            }
        }
    }

    #[test]
    fn the_largest_words_overflow_nothing() {
        for len in [65_535, BLOCK, BLOCK + 5] {
            let bytes = vec![0xff; len];
            assert_eq!(Sum::of(&bytes).folded(), naive(&bytes).to_be_bytes(), "{len} bytes");
        }
    }

    #[test]
    fn a_word_is_added_and_taken_out() {
        let bytes = [0x12, 0x34, 0xab, 0xcd];
        let sum = Sum::of(&bytes);
        assert_eq!((Sum::word([0x12, 0x34]) + Sum::number(0xabcd)).folded(), sum.folded());
        assert_eq!((sum + Sum::without([0xab, 0xcd])).folded(), [0x12, 0x34]);
    }

    proptest! {
        #[test]
        fn the_same_as_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..2000), from in 0_usize..40) {
            let bytes = &bytes[from.min(bytes.len())..];
            prop_assert_eq!(Sum::of(bytes).folded(), naive(bytes).to_be_bytes());
        }

        #[test]
        fn a_checksum_in_its_place_is_right(mut bytes in prop::collection::vec(any::<u8>(), 2..1000), bit in any::<usize>()) {
            bytes[..2].fill(0);
            let checksum = Sum::of(&bytes).checksum();
            bytes[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::of(&bytes).is_right());
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Sum::of(&bytes).is_right());
        }
    }
}
