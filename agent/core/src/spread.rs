//! Numbers that spread things in time, and on which nothing else depends: none of them is a secret.

/// What is added from one number of SplitMix64 to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64: another number each time.
#[derive(Debug, Clone)]
pub struct Spread(u64);

impl Spread {
    /// `seed` is random, so that many nodes do not do the same in the same moment.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }
}

/// 0 to 255, another for each `number` and seed.
pub(crate) const fn spread(seed: u64, number: u64) -> u8 {
    (mix(seed ^ number.wrapping_mul(STEP)) >> 56) as u8
}

const fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first numbers of its authors' C for the seed 1234567 (https://prng.di.unimi.it/splitmix64.c).
        let mut spread = Spread::new(1_234_567);
        let numbers = [(); 3].map(|()| spread.number());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
