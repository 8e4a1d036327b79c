//! Eight blocks of ChaCha20 and four tags of Poly1305 at once, with AVX2: what nearly every x86-64 processor since 2015 has.
//!
//! As in `avx512`, each lane works for another block or packet. Branches depend on the number of packets and on their lengths alone.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_castsi128_si256, _mm256_cmpeq_epi64, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_mul_epu32,
    _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set_epi64x, _mm256_set1_epi32, _mm256_set1_epi64x,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_slli_epi64, _mm256_srli_epi32,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use crate::batch::{Blocks, CONSTANTS, Lanes, Message};
use crate::limbs::{Limbs, MASK_26};
use crate::tags::{self, Poly1305, STEP};

/// Lanes of 64 bits.
const TAGS: usize = 4;

/// Where the processor has AVX2: Haswell, Zen and later.
pub(crate) struct Avx2;

/// Where each byte comes from when words are rotated to the left by 16 bits, and by 8.
const ROTATIONS: [[u8; 16]; 2] =
    [[2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13], [3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]];

/// Rotates each word to the left.
macro_rules! rotate {
    ($by:literal, $x:expr) => {{
        let word = $x;
        _mm256_or_si256(_mm256_slli_epi32::<$by>(word), _mm256_srli_epi32::<{ 32 - $by }>(word))
    }};
}

/// One quarter round (RFC 8439, section 2.1) in all lanes.
macro_rules! quarter {
    ($x:ident, $by_16:ident, $by_8:ident, $a:expr, $b:expr, $c:expr, $d:expr) => {
        $x[$a] = _mm256_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($x[$d], $x[$a]), $by_16);
        $x[$c] = _mm256_add_epi32($x[$c], $x[$d]);
        $x[$b] = rotate!(12, _mm256_xor_si256($x[$b], $x[$c]));
        $x[$a] = _mm256_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($x[$d], $x[$a]), $by_8);
        $x[$c] = _mm256_add_epi32($x[$c], $x[$d]);
        $x[$b] = rotate!(7, _mm256_xor_si256($x[$b], $x[$c]));
    };
}

impl Lanes for Avx2 {
    const BLOCKS: usize = 8;
    const TAGS: usize = TAGS;
    /// Fewer leave lanes without work: six packets of 128 bytes take as long as by ring, and five longer.
    const FEWEST: usize = 8;
    /// ring's time was 1.5 times this one's for packets of 64 bytes, 1.3 times for 128, 1.1 to 1.2 times for 256, 1.0 to 1.1 times for 384
    /// to 512 and 0.8 times for 1424 (Xeon, Sapphire Rapids). For long packets ring uses AVX2 too, and finds the tag meanwhile by
    /// multiplications outside of these registers, where here the same ones do both.
    const LONGEST: usize = 256;

    fn is_here() -> bool {
        is_x86_feature_detected!("avx2")
    }

    #[target_feature(enable = "avx2")]
    unsafe fn xor_key_stream(key: &[u32; 8], blocks: &Blocks) {
        let all = |word: u32| _mm256_set1_epi32(word.cast_signed());
        let mut initial = [_mm256_setzero_si256(); 16];
        for (word, constant) in initial.iter_mut().zip(CONSTANTS.iter().chain(key)) {
            *word = all(*constant);
        }
        for (word, own) in initial[12..].iter_mut().zip(std::iter::once(&blocks.numbers).chain(&blocks.nonces)) {
            // SAFETY: eight words are 32 bytes.
            *word = unsafe { _mm256_loadu_si256(own.as_ptr().cast()) };
        }
        // Whose shuffles the compiler knows, it splits into more of them.
        let [by_16, by_8] = std::hint::black_box(ROTATIONS).map(|from| {
            // SAFETY: 16 bytes.
            _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
        });
        let mut x = initial;
        for _ in 0..10 {
            quarter!(x, by_16, by_8, 0, 4, 8, 12);
            quarter!(x, by_16, by_8, 1, 5, 9, 13);
            quarter!(x, by_16, by_8, 2, 6, 10, 14);
            quarter!(x, by_16, by_8, 3, 7, 11, 15);
            quarter!(x, by_16, by_8, 0, 5, 10, 15);
            quarter!(x, by_16, by_8, 1, 6, 11, 12);
            quarter!(x, by_16, by_8, 2, 7, 8, 13);
            quarter!(x, by_16, by_8, 3, 4, 9, 14);
        }
        for (word, initial) in x.iter_mut().zip(initial) {
            *word = _mm256_add_epi32(*word, initial);
        }
        let [a, b, c, d, e, f, g, h, rest @ ..] = x;
        let halves = [transposed([a, b, c, d, e, f, g, h]), transposed(rest)];
        for lane in 0..8 {
            let (at, len) = (blocks.at[lane], blocks.masks[lane].trailing_ones() as usize);
            for (half, streams) in halves.iter().enumerate() {
                let len = len.saturating_sub(32 * half).min(32);
                // SAFETY: the caller may write so many bytes.
                unsafe { xor(at.wrapping_add(32 * half), len, streams[lane]) };
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn tags(keys: &[[u8; 32]], messages: &[Message], tags: &mut [[u8; 16]]) {
        // SAFETY: the caller's.
        unsafe { tags::tags::<Self, TAGS>(keys, messages, tags) }
    }
}

/// Combines `len` bytes, at most 32, with a key stream.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn xor(at: *mut u8, len: usize, stream: __m256i) {
    let mut some = [0_u8; 32];
    // SAFETY: the caller may write `len` bytes.
    unsafe {
        if len == 32 {
            _mm256_storeu_si256(at.cast(), _mm256_xor_si256(_mm256_loadu_si256(at.cast()), stream));
        } else if len > 0 {
            at.copy_to_nonoverlapping(some.as_mut_ptr(), len);
            let content = _mm256_loadu_si256(some.as_ptr().cast());
            _mm256_storeu_si256(some.as_mut_ptr().cast(), _mm256_xor_si256(content, stream));
            at.copy_from_nonoverlapping(some.as_ptr(), len);
        }
    }
}

/// From a register for each of eight words to a register for each block.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(words: [__m256i; 8]) -> [__m256i; 8] {
    // Four words of two blocks each, side by side.
    let mut fours = [_mm256_setzero_si256(); 8];
    for (four, words) in fours.chunks_exact_mut(4).zip(words.chunks_exact(4)) {
        let (a, b) = (_mm256_unpacklo_epi32(words[0], words[1]), _mm256_unpacklo_epi32(words[2], words[3]));
        let (c, d) = (_mm256_unpackhi_epi32(words[0], words[1]), _mm256_unpackhi_epi32(words[2], words[3]));
        four[0] = _mm256_unpacklo_epi64(a, b);
        four[1] = _mm256_unpackhi_epi64(a, b);
        four[2] = _mm256_unpacklo_epi64(c, d);
        four[3] = _mm256_unpackhi_epi64(c, d);
    }
    let mut blocks = [_mm256_setzero_si256(); 8];
    for nth in 0..4 {
        blocks[nth] = _mm256_permute2x128_si256::<0x20>(fours[nth], fours[4 + nth]);
        blocks[4 + nth] = _mm256_permute2x128_si256::<0x31>(fours[nth], fours[4 + nth]);
    }
    blocks
}

/// A number for each packet, in five limbs of 26 bits, and some more where it is not reduced.
type Number = [__m256i; 5];

/// What numbers are multiplied by: the limbs, and 5 times the upper four (2^130 is 5 modulo 2^130 - 5).
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    limbs: Number,
    folded: [__m256i; 4],
}

/// A block of each packet: its lower 64 bits, and its upper ones.
type Block = [__m256i; 2];

impl Poly1305<TAGS> for Avx2 {
    type Number = Number;
    type Factor = Factor;
    type Blocks = [Block; STEP];

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn number(limbs: &[Limbs; TAGS]) -> Number {
        let narrow = limbs.each_ref().map(Limbs::narrow);
        let mut number = [_mm256_setzero_si256(); 5];
        for (nth, limb) in number.iter_mut().enumerate() {
            *limb = words(|lane| narrow[lane][nth]);
        }
        number
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn limbs(number: Number) -> [Limbs; TAGS] {
        let mut words = [[0_u64; 4]; 5];
        for (words, limb) in words.iter_mut().zip(number) {
            // SAFETY: four words are 32 bytes.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), limb) };
        }
        std::array::from_fn(|lane| Limbs::of_narrow(words.map(|words| words[lane])))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn factor(limbs: Number) -> Factor {
        let [_, upper @ ..] = limbs;
        let mut folded = upper;
        for limb in &mut folded {
            *limb = _mm256_add_epi64(*limb, _mm256_slli_epi64::<2>(*limb));
        }
        Factor { limbs, folded }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn product(number: Number, by: &Factor) -> Number {
        reduced(with_product([_mm256_setzero_si256(); 5], number, by))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn whole(at: &[*const u8; TAGS]) -> [Block; STEP] {
        let mut blocks = [[_mm256_setzero_si256(); 2]; STEP];
        for (nth, block) in blocks.iter_mut().enumerate() {
            // SAFETY: the caller may read all.
            *block = unsafe { self::block(std::array::from_fn(|lane| at[lane].wrapping_add(16 * nth))) };
        }
        blocks
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn parts(at: &[*const u8; TAGS], masks: &[u64; TAGS]) -> [Block; STEP] {
        let mut blocks = [[_mm256_setzero_si256(); 2]; STEP];
        for (nth, block) in blocks.iter_mut().enumerate() {
            let mut copies = [[0_u8; 16]; 4];
            let mut places = [std::ptr::null(); 4];
            for (lane, (place, copy)) in places.iter_mut().zip(&mut copies).enumerate() {
                let at = at[lane].wrapping_add(16 * nth);
                let len = ((masks[lane] >> (16 * nth)) as u16).trailing_ones() as usize;
                if 0 < len && len < 16 {
                    // SAFETY: the caller may read what the mask lets through: the block's first bytes.
                    unsafe { at.copy_to_nonoverlapping(copy.as_mut_ptr(), len) };
                }
                *place = if len == 16 { at } else { copy.as_ptr() };
            }
            // SAFETY: each is 16 bytes of the message, or a copy.
            *block = unsafe { self::block(places) };
        }
        blocks
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn with_lengths(blocks: [Block; STEP], lengths: &[u64; TAGS]) -> [Block; STEP] {
        let [a, b, c, [low, high]] = blocks;
        [a, b, c, [low, _mm256_or_si256(high, words(|lane| lengths[lane]))]]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step(sum: Number, blocks: [Block; STEP], lanes: [u8; STEP], powers: &[Factor; STEP]) -> Number {
        let [power_4, power_3, power_2, power_1] = powers;
        // The first last: what the others come to does not have to wait for the step before.
        let sums = with_product([_mm256_setzero_si256(); 5], limbs_of(blocks[3], lanes[3]), power_1);
        let sums = with_product(sums, limbs_of(blocks[2], lanes[2]), power_2);
        let sums = with_product(sums, limbs_of(blocks[1], lanes[1]), power_3);
        let mut first = limbs_of(blocks[0], lanes[0]);
        for (limb, sum) in first.iter_mut().zip(sum) {
            *limb = _mm256_add_epi64(*limb, sum);
        }
        reduced(with_product(sums, first, power_4))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn words(word: impl Fn(usize) -> u64) -> __m256i {
    let [a, b, c, d] = std::array::from_fn(|lane| word(lane).cast_signed());
    _mm256_set_epi64x(d, c, b, a)
}

/// The blocks of 16 bytes at those places.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block(at: [*const u8; TAGS]) -> Block {
    let pair = |one: *const u8, other: *const u8| {
        // SAFETY: the caller may read 16 bytes at each place.
        let [one, other] = unsafe { [_mm_loadu_si128(one.cast()), _mm_loadu_si128(other.cast())] };
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(one), other)
    };
    let (even, odd) = (pair(at[0], at[2]), pair(at[1], at[3]));
    [_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd)]
}

/// A block of each packet as a number, with the bit above it in the lanes that have one.
#[inline]
#[target_feature(enable = "avx2")]
fn limbs_of([low, high]: Block, lanes: u8) -> Number {
    let mask = _mm256_set1_epi64x(MASK_26.cast_signed());
    let middle = _mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high));
    let bits = _mm256_set_epi64x(8, 4, 2, 1);
    let present = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(i64::from(lanes)), bits), bits);
    let above = _mm256_and_si256(present, _mm256_set1_epi64x(1 << 24));
    [
        _mm256_and_si256(low, mask),
        _mm256_and_si256(_mm256_srli_epi64::<26>(low), mask),
        _mm256_and_si256(middle, mask),
        _mm256_and_si256(_mm256_srli_epi64::<14>(high), mask),
        _mm256_or_si256(_mm256_srli_epi64::<40>(high), above),
    ]
}

/// Adds a product modulo 2^130 - 5. The limbs are below 2^28, and those of factors below 2^27: then [`STEP`] products have room.
#[inline]
#[target_feature(enable = "avx2")]
fn with_product(sums: Number, number: Number, by: &Factor) -> Number {
    let Factor { limbs: [r, s, t, u, v], folded: [s5, t5, u5, v5] } = *by;
    let [a, b, c, d, e] = number;
    let [f, g, h, i, j] = sums;
    let add = |sum: __m256i, by: [__m256i; 5]| {
        let (first, second) = (_mm256_mul_epu32(a, by[0]), _mm256_mul_epu32(b, by[1]));
        let (third, fourth) = (_mm256_mul_epu32(c, by[2]), _mm256_mul_epu32(d, by[3]));
        let (sum, second) = (_mm256_add_epi64(sum, first), _mm256_add_epi64(second, third));
        _mm256_add_epi64(_mm256_add_epi64(sum, second), _mm256_add_epi64(fourth, _mm256_mul_epu32(e, by[4])))
    };
    [
        add(f, [r, v5, u5, t5, s5]),
        add(g, [s, r, v5, u5, t5]),
        add(h, [t, s, r, v5, u5]),
        add(i, [u, t, s, r, v5]),
        add(j, [v, u, t, s, r]),
    ]
}

/// The sums as one number, whose limbs are below 2^26 + 2^13.
#[inline]
#[target_feature(enable = "avx2")]
fn reduced(sums: Number) -> Number {
    let mask = _mm256_set1_epi64x(MASK_26.cast_signed());
    let [mut a, mut b, mut c, mut d, mut e] = sums;
    let carried = |from: &mut __m256i| {
        let carry = _mm256_srli_epi64::<26>(*from);
        *from = _mm256_and_si256(*from, mask);
        carry
    };
    // Two chains at once.
    b = _mm256_add_epi64(b, carried(&mut a));
    e = _mm256_add_epi64(e, carried(&mut d));
    c = _mm256_add_epi64(c, carried(&mut b));
    // What is above 2^130 comes back five times.
    let folded = carried(&mut e);
    a = _mm256_add_epi64(a, _mm256_add_epi64(folded, _mm256_slli_epi64::<2>(folded)));
    d = _mm256_add_epi64(d, carried(&mut c));
    b = _mm256_add_epi64(b, carried(&mut a));
    e = _mm256_add_epi64(e, carried(&mut d));
    [a, b, c, d, e]
}
