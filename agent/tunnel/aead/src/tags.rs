//! Poly1305 (RFC 8439, section 2.5) of many messages at once, by whichever registers: which blocks of which message are taken when.

use crate::batch::Message;
use crate::limbs::Limbs;

/// Blocks of each message that are multiplied before the sum is reduced.
pub(crate) const STEP: usize = 4;

/// The arithmetic of one kind of registers, each of whose lanes has a number of another message.
///
/// # Safety
///
/// Of all: the processor has the registers.
pub(crate) trait Poly1305<const LANES: usize> {
    /// A number for each message.
    type Number: Copy;
    /// A number as others are multiplied by it.
    type Factor: Copy;
    /// [`STEP`] blocks of each message.
    type Blocks;

    /// The numbers with those limbs.
    unsafe fn number(limbs: &[Limbs; LANES]) -> Self::Number;

    /// The numbers' limbs.
    unsafe fn limbs(number: Self::Number) -> [Limbs; LANES];

    /// From a number that is a product.
    unsafe fn factor(number: Self::Number) -> Self::Factor;

    /// The product, reduced.
    unsafe fn product(number: Self::Number, by: &Self::Factor) -> Self::Number;

    /// The blocks at those places, all of whose bytes may be read.
    unsafe fn whole(at: &[*const u8; LANES]) -> Self::Blocks;

    /// The blocks at those places: of the bytes, only those in the masks may be read, and the others are 0. In each block, the mask has
    /// none or some of the first bytes.
    unsafe fn parts(at: &[*const u8; LANES], masks: &[u64; LANES]) -> Self::Blocks;

    /// The same with these as the upper halves of the last blocks, which are 0.
    unsafe fn with_lengths(blocks: Self::Blocks, lengths: &[u64; LANES]) -> Self::Blocks;

    /// The sum after these blocks, in the lanes that have each of them; where one is not there, it is 0. The first of the powers is the
    /// highest.
    unsafe fn step(
        sum: Self::Number,
        blocks: Self::Blocks,
        lanes: [u8; STEP],
        powers: &[Self::Factor; STEP],
    ) -> Self::Number;
}

/// The tags of up to as many messages as there are lanes, without additional data, each by its own one-time key.
///
/// It is part of a function that is compiled for the registers, as all of [`Poly1305`] is.
///
/// # Safety
///
/// The processor has the registers, and the messages can be read.
#[expect(clippy::inline_always, reason = "otherwise it is compiled without the registers")]
#[inline(always)]
pub(crate) unsafe fn tags<P: Poly1305<LANES>, const LANES: usize>(
    keys: &[[u8; 32]],
    messages: &[Message],
    tags: &mut [[u8; 16]],
) {
    let (Some(first), Some(first_key)) = (messages.first(), keys.first()) else { return };
    // Lanes without a message do the first one's work again, and what they find is not looked at.
    let messages: [Message; LANES] = std::array::from_fn(|lane| *messages.get(lane).unwrap_or(first));
    let r: [Limbs; LANES] = std::array::from_fn(|lane| Limbs::of_key(keys.get(lane).unwrap_or(first_key)));
    // SAFETY: the caller's.
    let (powers, mut sum) =
        unsafe { (powers::<P, LANES>(P::number(&r)), P::number(&[const { Limbs([0; 3]) }; LANES])) };

    // The last step of each message has its last blocks, three at most, and the block of the lengths. What is before is taken in steps from
    // there back: the first step of a message may lack its first blocks, and shorter messages begin later.
    let before: [usize; LANES] = std::array::from_fn(|lane| messages[lane].len.div_ceil(16).saturating_sub(3) * 16);
    let steps = before.iter().max().map_or(0, |before| before.div_ceil(16 * STEP));
    let whole_steps = before.iter().min().map_or(0, |before| before / (16 * STEP));
    let mut at: [*const u8; LANES] =
        std::array::from_fn(|lane| messages[lane].at.wrapping_add(before[lane]).wrapping_sub(16 * STEP * steps));
    for left in (0..=steps).rev() {
        // SAFETY: the masks leave out what lies before and behind the messages; so many whole steps of each are there.
        sum = unsafe {
            if left == 0 {
                let lacking: [usize; LANES] =
                    std::array::from_fn(|lane| 3_usize.saturating_sub(messages[lane].len.div_ceil(16)));
                let places = std::array::from_fn(|lane| at[lane].wrapping_sub(16 * lacking[lane]));
                let masks = std::array::from_fn(|lane| {
                    ((1 << (messages[lane].len - before[lane])) - 1) << (16 * lacking[lane])
                });
                // RFC 8439, section 2.8: the length of the additional data, which is 0, and that of the content.
                let blocks = P::with_lengths(P::parts(&places, &masks), &messages.map(|message| message.len as u64));
                P::step(sum, blocks, present(lacking), &powers)
            } else if left <= whole_steps {
                P::step(sum, P::whole(&at), [0xff; STEP], &powers)
            } else {
                let lacking = before.map(|before| ((16 * STEP * left).saturating_sub(before) / 16).min(STEP));
                let masks = lacking.map(|lacking| if lacking < STEP { u64::MAX << (16 * lacking) } else { 0 });
                P::step(sum, P::parts(&at, &masks), present(lacking), &powers)
            }
        };
        at = at.map(|at| at.wrapping_add(16 * STEP));
    }
    // SAFETY: the caller's.
    let sums = unsafe { P::limbs(sum) };
    for ((tag, key), sum) in tags.iter_mut().zip(keys).zip(sums) {
        *tag = sum.tag(key);
    }
}

/// The lanes that have each block of a step, where each lacks so many at its front.
fn present<const LANES: usize>(lacking: [usize; LANES]) -> [u8; STEP] {
    std::array::from_fn(|block| {
        let lanes = lacking.into_iter().enumerate();
        lanes.fold(0, |all, (lane, lacking)| all | u8::from(block >= lacking) << lane)
    })
}

/// The fourth power of `r`, and the others down to itself.
#[expect(clippy::inline_always, reason = "as `tags`")]
#[inline(always)]
unsafe fn powers<P: Poly1305<LANES>, const LANES: usize>(r: P::Number) -> [P::Factor; STEP] {
    // SAFETY: the caller's.
    unsafe {
        let factor = P::factor(r);
        let mut powers = [factor; STEP];
        let mut power = r;
        for place in powers[..STEP - 1].iter_mut().rev() {
            power = P::product(power, &factor);
            *place = P::factor(power);
        }
        powers
    }
}

#[cfg(test)]
mod tests;
