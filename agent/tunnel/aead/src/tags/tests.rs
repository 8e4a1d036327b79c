use crate::batch::{Lanes, Message};
use crate::limbs::{Limbs, MASK_42, MASK_44};

/// One after the other, with products of 128 bits.
fn one_by_one(key: &[u8; 32], message: &[u8]) -> [u8; 16] {
    let Limbs(r) = Limbs::of_key(key);
    let [r, s, t] = r.map(u128::from);
    let mut sum = [0_u64; 3];
    let lengths = (message.len() as u128) << 64;
    let padded = message.chunks(16).map(|chunk| {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        u128::from_le_bytes(block)
    });
    for block in padded.chain([lengths]) {
        let [a, b, c] = [
            sum[0] + (block as u64 & MASK_44),
            sum[1] + ((block >> 44) as u64 & MASK_44),
            sum[2] + ((block >> 88) as u64 | 1 << 40),
        ]
        .map(u128::from);
        let low = a * r + 20 * (b * t + c * s);
        let middle = a * s + b * r + 20 * c * t + (low >> 44);
        let high = a * t + b * s + c * r + (middle >> 44);
        let first = (low as u64 & MASK_44) + (high >> 42) as u64 * 5;
        sum = [first & MASK_44, (middle as u64 & MASK_44) + (first >> 44), high as u64 & MASK_42];
    }
    Limbs(sum).tag(key)
}

/// The limbs have as many bits as they can have when all bits of keys and messages are set, and the fewest of other numbers.
fn extremes<L: Lanes>() {
    if !L::is_here() {
        return;
    }
    let keys: [[u8; 32]; 4] =
        [[0xff; 32], [0; 32], std::array::from_fn(|byte| if byte == 0 { 5 } else { 0 }), [0x80; 32]];
    for byte in [0xff, 0, 0xfb] {
        let content = vec![byte; 2048];
        for len in (0..400).chain([2047, 2048]) {
            let lengths = [len, len / 2, 2 * len / 3, 0];
            let expected: [_; 4] = std::array::from_fn(|lane| one_by_one(&keys[lane], &content[..lengths[lane]]));
            let messages = lengths.map(|len| Message { at: content.as_ptr(), len });
            let mut tags = [[0; 16]; 4];
            // SAFETY: the processor has the registers, and the content is longer than any of the messages.
            unsafe { L::tags(&keys, &messages, &mut tags) };
            assert_eq!(tags, expected, "{byte} {lengths:?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_has_room_for_the_largest_numbers() {
    extremes::<crate::avx2::Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_has_room_for_the_largest_numbers() {
    extremes::<crate::avx512::Avx512>();
}

#[test]
fn limbs_of_26_bits_are_the_same_number() {
    for key in [[0xff; 32], [0x5a; 32], std::array::from_fn(|byte| byte as u8 * 7)] {
        let limbs = Limbs::of_key(&key);
        let Limbs(same) = Limbs::of_narrow(limbs.narrow());
        assert_eq!(Limbs(same).tag(&key), limbs.tag(&key));
    }
}
