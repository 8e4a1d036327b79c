//! Randomness that comes from one seed: a generator for jitter and for choices between equals, on which nothing secret depends, and
//! the transaction ids of STUN, which no other host may be able to predict.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// What is added from one number of SplitMix64 to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64: another number each time.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// `seed` is random, so that many nodes do not do the same in the same moment.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Between zero and `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        let share = (self.next_u64() >> 32) as u32;
        limit.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

/// 0 to 255, another for each `number` and seed.
pub(crate) const fn jitter(seed: u64, number: u64) -> u8 {
    (mix(seed ^ number.wrapping_mul(STEP)) >> 56) as u8
}

const fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Where all randomness of [`crate::Paths`] comes from.
#[derive(Clone)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Of the system's random numbers, or of a test's.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rng(&self) -> Rng {
        let [a, b, c, d, e, f, g, h, ..] = self.derive("jitter", 0);
        Rng::new(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    pub(crate) fn transactions(&self) -> Transactions {
        Transactions { seed: self.clone(), next: 0 }
    }

    fn derive(&self, what: &str, number: u64) -> [u8; 32] {
        Sha256::new().chain_update(self.0).chain_update(number.to_be_bytes()).chain_update(what).finalize().into()
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

/// Transaction ids of STUN: no two are the same, and the servers that see some cannot tell the others.
#[derive(Debug, Clone)]
pub(crate) struct Transactions {
    seed: Seed,
    next: u64,
}

impl Transactions {
    pub(crate) fn next_id(&mut self) -> [u8; 12] {
        let random = self.seed.derive("stun", self.next);
        self.next += 1;
        std::array::from_fn(|at| random[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first numbers of its authors' C for the seed 1234567 (https://prng.di.unimi.it/splitmix64.c).
        let mut rng = Rng::new(1_234_567);
        let numbers = [(); 3].map(|()| rng.next_u64());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn transaction_ids_follow_from_the_seed_and_none_comes_twice() {
        let ids = |seed| {
            let mut transactions = Seed::new([seed; 32]).transactions();
            [(); 3].map(|()| transactions.next_id())
        };
        let (one, other) = (ids(1), ids(2));
        assert_eq!(one, ids(1));
        assert!(one[0] != one[1] && one[1] != one[2] && one[0] != other[0]);
    }
}
