//! A secp256k1 key that signs. It is kept like every other secret; the library's forms of it live only while they are used.

use std::fmt;

use alloy_primitives::{Address, B256, Signature};
use k256::ecdsa::{SigningKey, VerifyingKey};
use mesh_chain::sign_digest;
use mesh_tunnel::{Secret, leave_no_trace};

/// A private key of the chain's curve. Cannot be printed. A clone is another handle to it.
#[derive(Clone)]
pub struct Signer {
    secret: Secret,
    public_key: VerifyingKey,
    address: Address,
}

impl Signer {
    /// `None` for bytes that are zero or not below the order of the group.
    #[must_use]
    pub fn new(secret: impl Into<Secret>) -> Option<Self> {
        let secret = secret.into();
        let (public_key, address) = leave_no_trace(|| {
            let key = SigningKey::from_slice(secret.bytes()).ok()?;
            Some((*key.verifying_key(), Address::from_private_key(&key)))
        })?;
        Some(Self { secret, public_key, address })
    }

    /// Its public key.
    #[must_use]
    pub const fn public_key(&self) -> &VerifyingKey {
        &self.public_key
    }

    /// Its address on chain.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a digest, with a low s.
    ///
    /// # Errors
    /// Does not happen with a local key; the signer's words.
    pub fn sign(&self, digest: B256) -> Result<Signature, String> {
        self.calculate(|key| sign_digest(key, digest))
    }

    /// Computes with the key, and wipes the memory that was used. The result must not reveal the key.
    pub(crate) fn calculate<R>(&self, work: impl FnOnce(&SigningKey) -> R) -> R {
        leave_no_trace(|| {
            #[expect(clippy::expect_used, reason = "the same bytes were a key in `new`")]
            let key = SigningKey::from_slice(self.secret.bytes()).expect("a key");
            work(&key)
        })
    }
}

impl mesh_chain::Signer for Signer {
    fn address(&self) -> Address {
        self.address
    }

    fn sign(&self, digest: B256) -> Result<Signature, String> {
        Self::sign(self, digest)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_signs_as_its_address_and_cannot_be_printed() {
        let signer = Signer::new(Secret::write(|bytes| bytes.fill(7))).unwrap();
        let digest = B256::repeat_byte(9);
        assert_eq!(signer.sign(digest).unwrap().recover_address_from_prehash(&digest).unwrap(), signer.address());
        assert_eq!(format!("{signer:?}"), "[redacted]");
        assert!(Signer::new(Secret::write(|_| ())).is_none());
        assert!(Signer::new(Secret::write(|bytes| bytes.fill(0xff))).is_none());
    }
}
