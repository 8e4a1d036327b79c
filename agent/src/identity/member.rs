//! The member key: what makes a registration this node's own. Every instance of an app can derive every other's node key; this one is
//! drawn at random and leaves the CVM in signatures alone.

use std::fmt;

use k256::{ProjectivePoint, PublicKey, elliptic_curve::point::AffineCoordinates as _};
use mesh_core::id::{Address, B256, MemberKey};
use mesh_tunnel::Secret;

use crate::identity::signer::Signer;

/// A member's secp256k1 private key. Cannot be printed. A clone is another handle to it.
#[derive(Clone)]
pub struct MemberSecret(Signer);

impl MemberSecret {
    /// `None` for bytes that are zero or not below the order of the group.
    #[must_use]
    pub fn new(bytes: impl Into<Secret>) -> Option<Self> {
        Signer::new(bytes).map(Self)
    }

    /// The member address: the contract knows this node by it, and its funds pay for this node's transactions.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.0.address()
    }

    /// The public key, which can be recovered from every signature.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key().into()
    }

    /// The key, for transactions.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.0
    }

    /// Signs a digest: r ‖ s ‖ v, low s, v = 27 or 28.
    ///
    /// # Errors
    /// Does not happen with a local key; the signer's words.
    pub fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        self.0.sign(digest).map(|signature| signature.as_bytes())
    }

    /// The x coordinate of the Diffie-Hellman point with another member's public key, which that member computes too and no other party
    /// can (SEC 1, 3.3.1). `None` where `other` is no point of the curve.
    #[must_use]
    pub fn agree(&self, other: &MemberKey) -> Option<Secret> {
        let other = PublicKey::from_sec1_bytes(&other.0).ok()?;
        Some(self.0.calculate(|own| {
            let point = ProjectivePoint::from(*other.as_affine()) * own.as_nonzero_scalar().as_ref();
            Secret::write(|agreed| agreed.copy_from_slice(&point.to_affine().x()))
        }))
    }
}

impl fmt::Debug for MemberSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn secret(byte: u8) -> MemberSecret {
        MemberSecret::new(Zeroizing::new([byte; 32])).unwrap()
    }

    fn public(secret: &MemberSecret) -> MemberKey {
        MemberKey(secret.public_key().to_sec1_bytes().as_ref().try_into().unwrap())
    }

    #[test]
    fn both_ends_agree_and_a_third_does_not() {
        let [a, b, c] = [1, 2, 3].map(secret);
        let shared = a.agree(&public(&b)).unwrap();
        assert_eq!(shared.bytes(), b.agree(&public(&a)).unwrap().bytes());
        assert_ne!(shared.bytes(), a.agree(&public(&c)).unwrap().bytes());
        assert_ne!(shared.bytes(), c.agree(&public(&b)).unwrap().bytes());
    }

    /// Computed independently of this code, by affine additions on the curve in Python.
    #[test]
    fn known_answer() {
        let shared = secret(1).agree(&public(&secret(2))).unwrap();
        assert_eq!(hex::encode(shared.bytes()), "d0158a38faf6118af133af12d9bfa388eab4a08d1a2088ea6e6ec1269e03567f");
    }

    #[test]
    fn what_is_no_key_is_refused_and_nothing_is_printed() {
        assert!(MemberSecret::new(Zeroizing::new([0; 32])).is_none());
        assert!(MemberSecret::new(Zeroizing::new([0xff; 32])).is_none());
        assert!(secret(1).agree(&MemberKey([0xff; 33])).is_none());
        assert!(secret(1).agree(&MemberKey([0; 33])).is_none(), "the point at infinity is no key");
        assert_eq!(format!("{:?}", secret(1)), "[redacted]");
    }
}
