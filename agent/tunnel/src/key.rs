//! The three kinds of key. A secret one is in memory once, wherever it is used; it cannot be printed, and is wiped with its last
//! handle.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use x25519_dalek::StaticSecret;

use crate::secret::{Secret, leave_no_trace};

/// A device's Curve25519 private key. A clone is another handle to it.
#[derive(Clone)]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// Takes 32 bytes as they are and clamps them (RFC 7748 section 5). All zeros stay zeros: in an update they mean
    /// "the device has no key", as in the UAPI.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Secret>) -> Self {
        let bytes = bytes.into();
        let [first, .., last] = bytes.bytes();
        let is_clamped = first & 7 == 0 && last >> 6 == 1;
        if is_clamped || *bytes.bytes() == [0; 32] {
            return Self(bytes);
        }
        Self(Secret::write(|clamped| {
            clamped.copy_from_slice(bytes.bytes());
            clamped[0] &= 248;
            clamped[31] = (clamped[31] & 127) | 64;
        }))
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        leave_no_trace(|| PublicKey(x25519_dalek::PublicKey::from(&self.secret()).to_bytes()))
    }

    pub(crate) fn is_zero(&self) -> bool {
        *self.bytes() == [0; 32]
    }

    /// A copy for a calculation, which must run in [`leave_no_trace`].
    pub(crate) fn secret(&self) -> StaticSecret {
        StaticSecret::from(*self.bytes())
    }

    /// The 32 bytes, borrowed: callers must not copy them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A symmetric key mixed into every handshake with one peer (paper, section 5.2). All zeros mean "none". A clone is another handle.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// Takes the 32 bytes as they are.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Secret>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn is_zero(&self) -> bool {
        *self.bytes() == [0; 32]
    }

    /// The 32 bytes, borrowed: callers must not copy them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A Curve25519 public key: the name of a peer. Shown in base64, as `wg` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Any 32 bytes. A low-order point is accepted here, but the device makes no handshake with such a peer.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// True where every Diffie-Hellman result with this key is zero, for any key of the other side: session keys with such a peer
    /// would be known to anyone. A clamped scalar is a multiple of the cofactor, so one multiplication by any scalar decides.
    pub(crate) fn is_low_order(&self) -> bool {
        x25519_dalek::x25519([1; 32], self.0) == [0; 32]
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_key_that_is_clamped_is_not_copied() {
        let secret = Secret::write(|bytes| (bytes[0], bytes[31]) = (8, 64));
        assert_eq!(PrivateKey::from_bytes(secret.clone()).bytes().as_ptr(), secret.bytes().as_ptr());
        let odd = PrivateKey::from_bytes(Secret::write(|bytes| bytes.fill(0xff)));
        assert_eq!((odd.bytes()[0], odd.bytes()[15], odd.bytes()[31]), (0xf8, 0xff, 0x7f));
    }

    #[test]
    fn secrets_cannot_be_printed() {
        let key = PrivateKey::from_bytes(Zeroizing::new([7; 32]));
        let psk = PresharedKey::from_bytes(Zeroizing::new([7; 32]));
        assert_eq!(format!("{key:?} {psk:?}"), "[redacted] [redacted]");
    }

    #[test]
    fn public_key_of_rfc_7748() {
        // RFC 7748 section 6.1, Alice.
        let private = *b"\x77\x07\x6d\x0a\x73\x18\xa5\x7d\x3c\x16\xc1\x72\x51\xb2\x66\x45\xdf\x4c\x2f\x87\xeb\xc0\x99\x2a\xb1\x77\xfb\xa5\x1d\xb9\x2c\x2a";
        let key = PrivateKey::from_bytes(Zeroizing::new(private));
        assert_eq!(key.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn low_order_points_are_known() {
        let order_8 = *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\x00";
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one, order_8] {
            assert!(PublicKey(point).is_low_order(), "{point:?}");
        }
        assert!(!PrivateKey::from_bytes(Zeroizing::new([9; 32])).public_key().is_low_order());
    }
}
