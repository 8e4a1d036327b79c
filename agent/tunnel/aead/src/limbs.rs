//! Numbers of Poly1305 (RFC 8439, section 2.5) in limbs of 44, 44 and 42 bits, as far as they are worked on one by one.

pub(crate) const MASK_44: u64 = (1 << 44) - 1;
pub(crate) const MASK_42: u64 = (1 << 42) - 1;
pub(crate) const MASK_26: u64 = (1 << 26) - 1;

/// A number modulo 2^130 - 5, lowest limb first.
pub(crate) struct Limbs(pub(crate) [u64; 3]);

impl Limbs {
    /// `r`, which is the first half of a one-time key.
    pub(crate) fn of_key(key: &[u8; 32]) -> Self {
        let [low, high] = [0, 8].map(|at| word(key, at));
        let (low, high) = (low & 0x0fff_fffc_0fff_ffff, high & 0x0fff_fffc_0fff_fffc);
        Self([low & MASK_44, (low >> 44 | high << 20) & MASK_44, high >> 24])
    }

    /// In five limbs of 26 bits, where these here have no more bits than they are long.
    pub(crate) fn narrow(&self) -> [u64; 5] {
        let Self([a, b, c]) = *self;
        [a, a >> 26 | b << 18, b >> 8, b >> 34 | c << 10, c >> 16].map(|limb| limb & MASK_26)
    }

    /// From five limbs of 26 bits, which may have some more.
    pub(crate) fn of_narrow([a, b, c, d, e]: [u64; 5]) -> Self {
        let low = |limb: u64, bits: u32| limb & ((1 << bits) - 1);
        Self([a + (low(b, 18) << 26), (b >> 18) + (c << 8) + (low(d, 10) << 34), (d >> 10) + (e << 16)])
    }

    /// The tag: the number, reduced, plus `s`, the second half of the key. The limbs may have some bits more than they are long.
    pub(crate) fn tag(self, key: &[u8; 32]) -> [u8; 16] {
        let Self([mut a, mut b, mut c]) = self;
        // Twice, since what is above comes back at the bottom.
        for _ in 0..2 {
            b += a >> 44;
            c += b >> 44;
            (a, b) = (a & MASK_44, b & MASK_44);
            a += (c >> 42) * 5;
            c &= MASK_42;
        }
        b += a >> 44;
        (a, c) = (a & MASK_44, c + (b >> 44));
        b &= MASK_44;
        // The number plus 5, less 2^130: where that is not negative, it is the reduced one.
        let d = a + 5;
        let e = b + (d >> 44);
        let f = (c + (e >> 44)).wrapping_sub(1 << 42);
        let is_reduced = (f >> 63).wrapping_sub(1);
        let choose = |before: u64, reduced: u64| before & !is_reduced | reduced & is_reduced;
        let (a, b, c) = (choose(a, d & MASK_44), choose(b, e & MASK_44), choose(c, f));
        let number = u128::from(a) | u128::from(b) << 44 | u128::from(c) << 88;
        let s = u128::from(word(key, 16)) | u128::from(word(key, 24)) << 64;
        number.wrapping_add(s).to_le_bytes()
    }
}

fn word(key: &[u8; 32], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| key[at + byte]))
}
