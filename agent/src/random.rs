//! Numbers that spread things in time, and on which nothing else depends.

/// SplitMix64: another number each time. None of them is a secret.
#[derive(Debug, Clone)]
pub(crate) struct Spread(u64);

impl Spread {
    /// `seed` is random, so that many nodes do not do the same in the same moment.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
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
