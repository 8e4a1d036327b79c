//! Sixteen blocks of ChaCha20 and eight tags of Poly1305 at once, with AVX-512 and its 52-bit multiplication.
//!
//! Each lane of a register works for another block or packet, so that no lane waits for another and none of them needs more than its
//! own key. Loops and masks depend on the number of packets and on their lengths alone, which anyone on the path sees.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_maskz_mov_epi64,
    _mm512_maskz_set1_epi64, _mm512_mullo_epi64, _mm512_or_si512, _mm512_rol_epi32, _mm512_set1_epi32,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_storeu_si512, _mm512_ternarylogic_epi64, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use crate::batch::{Blocks, CONSTANTS, Lanes, Message};
use crate::limbs::{Limbs, MASK_42, MASK_44};
use crate::tags::{self, Poly1305, STEP};

/// Lanes of 64 bits.
const TAGS: usize = 8;

/// Where the processor has AVX-512 F, BW, DQ, VL and IFMA: Ice Lake, Zen 4 and later.
pub(crate) struct Avx512;

/// One quarter round (RFC 8439, section 2.1) in all lanes.
macro_rules! quarter {
    ($x:ident, $a:expr, $b:expr, $c:expr, $d:expr) => {
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($x[$b], $x[$c]));
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($x[$b], $x[$c]));
    };
}

impl Lanes for Avx512 {
    const BLOCKS: usize = 16;
    const TAGS: usize = TAGS;
    /// With fewer packets ring is as fast.
    const FEWEST: usize = 4;
    const LONGEST: usize = usize::MAX;

    fn is_here() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn xor_key_stream(key: &[u32; 8], blocks: &Blocks) {
        let all = |word: u32| _mm512_set1_epi32(word.cast_signed());
        let mut initial = [_mm512_setzero_si512(); 16];
        for (word, constant) in initial.iter_mut().zip(CONSTANTS.iter().chain(key)) {
            *word = all(*constant);
        }
        for (word, own) in initial[12..].iter_mut().zip(std::iter::once(&blocks.numbers).chain(&blocks.nonces)) {
            // SAFETY: 16 words are 64 bytes.
            *word = unsafe { _mm512_loadu_si512(own.as_ptr().cast()) };
        }
        let mut x = initial;
        for _ in 0..10 {
            quarter!(x, 0, 4, 8, 12);
            quarter!(x, 1, 5, 9, 13);
            quarter!(x, 2, 6, 10, 14);
            quarter!(x, 3, 7, 11, 15);
            quarter!(x, 0, 5, 10, 15);
            quarter!(x, 1, 6, 11, 12);
            quarter!(x, 2, 7, 8, 13);
            quarter!(x, 3, 4, 9, 14);
        }
        for (word, initial) in x.iter_mut().zip(initial) {
            *word = _mm512_add_epi32(*word, initial);
        }
        for ((stream, at), mask) in transposed(x).into_iter().zip(blocks.at).zip(blocks.masks) {
            // SAFETY: the caller may write what the mask lets through.
            unsafe {
                let content = _mm512_maskz_loadu_epi8(mask, at.cast());
                _mm512_mask_storeu_epi8(at.cast(), mask, _mm512_xor_si512(content, stream));
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    unsafe fn tags(keys: &[[u8; 32]], messages: &[Message], tags: &mut [[u8; 16]]) {
        // SAFETY: the caller's.
        unsafe { tags::tags::<Self, TAGS>(keys, messages, tags) }
    }
}

/// From a register for each word to a register for each block.
#[target_feature(enable = "avx512f")]
fn transposed(words: [__m512i; 16]) -> [__m512i; 16] {
    // Four words of four blocks each, side by side.
    let mut fours = [_mm512_setzero_si512(); 16];
    for (four, words) in fours.chunks_exact_mut(4).zip(words.chunks_exact(4)) {
        let (a, b) = (_mm512_unpacklo_epi32(words[0], words[1]), _mm512_unpacklo_epi32(words[2], words[3]));
        let (c, d) = (_mm512_unpackhi_epi32(words[0], words[1]), _mm512_unpackhi_epi32(words[2], words[3]));
        four[0] = _mm512_unpacklo_epi64(a, b);
        four[1] = _mm512_unpackhi_epi64(a, b);
        four[2] = _mm512_unpacklo_epi64(c, d);
        four[3] = _mm512_unpackhi_epi64(c, d);
    }
    let mut blocks = [_mm512_setzero_si512(); 16];
    for first in 0..4 {
        let every_fourth = lanes_transposed([fours[first], fours[4 + first], fours[8 + first], fours[12 + first]]);
        for (nth, block) in every_fourth.into_iter().enumerate() {
            blocks[4 * nth + first] = block;
        }
    }
    blocks
}

/// A number for each packet, in limbs of 44, 44 and 42 bits, and some more where it is not reduced.
type Numbers = [__m512i; 3];

/// What numbers are multiplied by: the limbs, and 20 times the upper two (2^132 is 20 modulo 2^130 - 5).
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    limbs: Numbers,
    folded: [__m512i; 2],
}

/// Sums of products by limb: the lower 52 bits of each product, and what is above them.
#[derive(Clone, Copy)]
struct Sums {
    low: Numbers,
    high: Numbers,
}

impl Poly1305<TAGS> for Avx512 {
    type Number = Numbers;
    type Factor = Factor;
    /// A row for each message.
    type Blocks = [__m512i; TAGS];

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn number(limbs: &[Limbs; TAGS]) -> Numbers {
        let mut numbers = [_mm512_setzero_si512(); 3];
        for (nth, number) in numbers.iter_mut().enumerate() {
            let words = limbs.each_ref().map(|Limbs(limbs)| limbs[nth]);
            // SAFETY: eight words are 64 bytes.
            *number = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        numbers
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn limbs(number: Numbers) -> [Limbs; TAGS] {
        let mut words = [[0_u64; TAGS]; 3];
        for (words, limb) in words.iter_mut().zip(number) {
            // SAFETY: eight words are 64 bytes.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), limb) };
        }
        std::array::from_fn(|lane| Limbs(words.map(|words| words[lane])))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn factor(limbs: Numbers) -> Factor {
        let twenty = _mm512_set1_epi64(20);
        Factor { limbs, folded: [_mm512_mullo_epi64(limbs[1], twenty), _mm512_mullo_epi64(limbs[2], twenty)] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn product(number: Numbers, by: &Factor) -> Numbers {
        reduced(with_product(nothing(), number, by))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn whole(at: &[*const u8; TAGS]) -> [__m512i; TAGS] {
        // SAFETY: the caller may read all.
        at.map(|at| unsafe { _mm512_loadu_si512(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    unsafe fn parts(at: &[*const u8; TAGS], masks: &[u64; TAGS]) -> [__m512i; TAGS] {
        // SAFETY: the caller may read what the mask lets through.
        std::array::from_fn(|lane| unsafe { _mm512_maskz_loadu_epi8(masks[lane], at[lane].cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn with_lengths(rows: [__m512i; TAGS], lengths: &[u64; TAGS]) -> [__m512i; TAGS] {
        std::array::from_fn(|lane| {
            _mm512_or_si512(rows[lane], _mm512_maskz_set1_epi64(0x80, lengths[lane].cast_signed()))
        })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn step(sum: Numbers, rows: [__m512i; TAGS], lanes: [u8; STEP], powers: &[Factor; STEP]) -> Numbers {
        let [low, high] = columns(rows);
        let mut sums = nothing();
        // The first last: what the others come to does not have to wait for the step before.
        for block in [3, 2, 1] {
            sums = with_product(sums, limbs_of(low[block], high[block], lanes[block]), &powers[block]);
        }
        let [a, b, c] = limbs_of(low[0], high[0], lanes[0]);
        let first = [_mm512_add_epi64(sum[0], a), _mm512_add_epi64(sum[1], b), _mm512_add_epi64(sum[2], c)];
        reduced(with_product(sums, first, &powers[0]))
    }
}

/// From a row for each packet to the lower words of each block, and the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns(rows: [__m512i; TAGS]) -> [[__m512i; STEP]; 2] {
    let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    for pair in 0..4 {
        low[pair] = _mm512_unpacklo_epi64(rows[2 * pair], rows[2 * pair + 1]);
        high[pair] = _mm512_unpackhi_epi64(rows[2 * pair], rows[2 * pair + 1]);
    }
    [lanes_transposed(low), lanes_transposed(high)]
}

/// Four rows of four lanes of 128 bits, as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes_transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (e, f) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d));
    let (g, h) = (_mm512_shuffle_i64x2::<0xee>(a, b), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(e, f),
        _mm512_shuffle_i64x2::<0xdd>(e, f),
        _mm512_shuffle_i64x2::<0x88>(g, h),
        _mm512_shuffle_i64x2::<0xdd>(g, h),
    ]
}

/// A block of each packet as a number, with the bit above it in the lanes that have one.
#[inline]
#[target_feature(enable = "avx512f")]
fn limbs_of(low: __m512i, high: __m512i, lanes: u8) -> Numbers {
    let mask = _mm512_set1_epi64(MASK_44.cast_signed());
    // (a | b) & mask
    let middle = _mm512_ternarylogic_epi64::<0xa8>(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high), mask);
    let above = _mm512_maskz_mov_epi64(lanes, _mm512_set1_epi64(1 << 40));
    [_mm512_and_si512(low, mask), middle, _mm512_or_si512(_mm512_srli_epi64::<24>(high), above)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn nothing() -> Sums {
    Sums { low: [_mm512_setzero_si512(); 3], high: [_mm512_setzero_si512(); 3] }
}

/// Adds a product modulo 2^130 - 5. The numbers' limbs are below 2^46: then [`STEP`] products have room.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn with_product(sums: Sums, [a, b, c]: Numbers, by: &Factor) -> Sums {
    let Factor { limbs: [r, s, t], folded: [s20, t20] } = *by;
    let mut sums = sums;
    for (limb, [x, y, z]) in [[r, t20, s20], [s, r, t20], [t, s, r]].into_iter().enumerate() {
        for (number, by) in [(c, z), (b, y), (a, x)] {
            sums.low[limb] = _mm512_madd52lo_epu64(sums.low[limb], number, by);
            sums.high[limb] = _mm512_madd52hi_epu64(sums.high[limb], number, by);
        }
    }
    sums
}

/// The sums as one number, whose limbs are below 2^44, 2^44 + 2^10 and 2^42.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduced(Sums { low, high }: Sums) -> Numbers {
    let mask = _mm512_set1_epi64(MASK_44.cast_signed());
    let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(low[0]), _mm512_slli_epi64::<8>(high[0]));
    let second = _mm512_add_epi64(low[1], carry);
    let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(second), _mm512_slli_epi64::<8>(high[1]));
    let third = _mm512_add_epi64(low[2], carry);
    let carry = _mm512_add_epi64(_mm512_srli_epi64::<42>(third), _mm512_slli_epi64::<10>(high[2]));
    // What is above 2^130 comes back five times.
    let folded = _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry));
    let first = _mm512_add_epi64(_mm512_and_si512(low[0], mask), folded);
    [
        _mm512_and_si512(first, mask),
        _mm512_add_epi64(_mm512_and_si512(second, mask), _mm512_srli_epi64::<44>(first)),
        _mm512_and_si512(third, _mm512_set1_epi64(MASK_42.cast_signed())),
    ]
}
