//! The KMS key chain: root → app key → derived key, and the signatures that prove it. What the guest API v1 derives is in [`v1`].
//!
//! Byte for byte what dstack does (`dstack/ra-tls/src/kdf.rs`, `dstack/kms/src/crypto.rs`,
//! `dstack/guest-agent/src/rpc_service.rs`), so that a chain made here passes every check a real one passes,
//! except that its root must not be trusted.

pub mod v1;

use std::fmt;

use hkdf::Hkdf;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use sha2::Sha256;
use sha3::{Digest as _, Keccak256};
use zeroize::Zeroizing;

/// Bytes of an application id: the app contract's address, or the first bytes of the compose hash.
pub type AppId = [u8; 20];
/// An Ethereum address: the last 20 bytes of keccak256 of the uncompressed public key.
pub type Address = [u8; 20];
/// r ‖ s ‖ v with v = 0 or 1, as dstack writes it (not Ethereum's 27 or 28).
pub type RecoverableSignature = [u8; 65];

const KDF_SALT: &[u8] = b"RATLS";
const APP_KEY_CONTEXT: &[u8] = b"app-key";
const ISSUED_PREFIX: &[u8] = b"dstack-kms-issued:";

/// A key could not be made from the bytes given.
#[derive(Debug, thiserror::Error)]
#[error("not a secp256k1 private key: it must be 32 bytes, not zero and below the group order")]
pub struct InvalidKey;

/// HKDF-SHA256 with dstack's salt; `context` slices are joined without length prefixes.
#[must_use]
pub fn derive(ikm: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    hkdf(KDF_SALT, ikm, context)
}

fn hkdf(salt: &[u8], ikm: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0u8; 32]);
    #[expect(clippy::expect_used, reason = "32 bytes are below HKDF-SHA256's limit of 8160")]
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand_multi_info(info, out.as_mut())
        .expect("32 is a valid HKDF-SHA256 output length");
    out
}

/// keccak256 of the parts joined.
#[must_use]
pub fn keccak256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Keccak256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The Ethereum address of a public key.
#[must_use]
pub fn address(key: &VerifyingKey) -> Address {
    let point = key.to_encoded_point(false);
    let hash = keccak256(&[&point.as_bytes()[1..]]);
    let mut address = [0; 20];
    address.copy_from_slice(&hash[12..]);
    address
}

/// `0x` and 40 hex digits with the EIP-55 checksum in their case.
#[must_use]
pub fn checksummed(address: &Address) -> String {
    let lower = hex::encode(address);
    let hash = hex::encode(keccak256(&[lower.as_bytes()]));
    let digits = lower.chars().zip(hash.chars()).map(
        |(digit, nibble)| {
            if nibble >= '8' { digit.to_ascii_uppercase() } else { digit }
        },
    );
    std::iter::once('0').chain(std::iter::once('x')).chain(digits).collect()
}

/// Signs a digest as dstack does: RFC 6979 with SHA-256, low s, recovery id as the last byte.
#[must_use]
pub fn sign(key: &SigningKey, digest: &[u8; 32]) -> RecoverableSignature {
    #[expect(clippy::expect_used, reason = "signing fails only for digests shorter than half the field")]
    let (signature, recovery): (Signature, RecoveryId) =
        key.sign_prehash_recoverable(digest).expect("a 32-byte digest can be signed");
    let mut out = [0; 65];
    out[..64].copy_from_slice(&signature.to_bytes());
    out[64] = recovery.to_byte();
    out
}

/// The address that signed `digest`, or `None` where the signature is malformed.
#[must_use]
pub fn recover(digest: &[u8; 32], signature: &[u8]) -> Option<Address> {
    let (compact, v) = signature.split_at_checked(64)?;
    let &[v @ 0..=1] = v else { return None };
    let signature = Signature::from_slice(compact).ok()?;
    let key = VerifyingKey::recover_from_prehash(digest, &signature, RecoveryId::from_byte(v)?).ok()?;
    Some(address(&key))
}

/// What the KMS root signs to vouch for an app's key.
#[must_use]
pub fn issued_digest(app_id: &AppId, app_key: &VerifyingKey) -> [u8; 32] {
    keccak256(&[ISSUED_PREFIX, app_id, app_key.to_encoded_point(true).as_bytes()])
}

/// A KMS root key: from `--seed`, so anyone can have it.
pub struct KmsRoot(SigningKey);

impl KmsRoot {
    /// Takes the root's 32-byte scalar, big-endian.
    ///
    /// # Errors
    /// When the bytes are no secp256k1 private key.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, InvalidKey> {
        SigningKey::from_slice(scalar).map(Self).map_err(|_| InvalidKey)
    }

    /// The address every chain of this root recovers to.
    #[must_use]
    pub fn address(&self) -> Address {
        address(self.0.verifying_key())
    }

    /// Derives an app's key and signs it, as the KMS does when it provisions an app.
    ///
    /// # Errors
    /// When the derived bytes are no private key (probability 2⁻¹²⁸).
    pub fn issue(&self, app_id: &AppId) -> Result<AppKey, InvalidKey> {
        let root = Zeroizing::new(self.0.to_bytes());
        let scalar = derive(&root, &[app_id, APP_KEY_CONTEXT]);
        let key = SigningKey::from_slice(scalar.as_ref()).map_err(|_| InvalidKey)?;
        let issued = self.vouch(app_id, key.verifying_key());
        Ok(AppKey::new(key, issued.to_vec()))
    }

    /// The root's signature over an app key.
    #[must_use]
    pub fn vouch(&self, app_id: &AppId, app_key: &VerifyingKey) -> RecoverableSignature {
        sign(&self.0, &issued_digest(app_id, app_key))
    }
}

impl fmt::Debug for KmsRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KmsRoot([redacted])")
    }
}

/// An app's key with the KMS root's signature over it.
#[derive(Clone)]
pub struct AppKey {
    key: SigningKey,
    issued: Vec<u8>,
}

impl AppKey {
    /// `issued` is the KMS root's signature, 65 bytes, or empty where no KMS vouches.
    #[must_use]
    pub fn new(key: SigningKey, issued: Vec<u8>) -> Self {
        Self { key, issued }
    }

    /// The app's public key.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        self.key.verifying_key()
    }

    /// The KMS root's signature over this key, empty without a KMS: `signature_chain[1]`.
    #[must_use]
    pub fn issued(&self) -> &[u8] {
        &self.issued
    }

    /// The root address the chain recovers to, `None` without a (well-formed) KMS signature.
    #[must_use]
    pub fn root(&self, app_id: &AppId) -> Option<Address> {
        recover(&issued_digest(app_id, self.verifying_key()), &self.issued)
    }

    /// The same key with another KMS signature over it.
    #[must_use]
    pub fn with_issued(&self, issued: Vec<u8>) -> Self {
        Self { key: self.key.clone(), issued }
    }

    /// Bytes for `path`: neither purpose nor algorithm enter, so one path gives the same bytes to every algorithm.
    #[must_use]
    pub fn derive(&self, path: &[u8]) -> Zeroizing<[u8; 32]> {
        derive(&Zeroizing::new(self.key.to_bytes()), &[path])
    }

    /// The app key's signature over `purpose ":" hex(public key)`: `signature_chain[0]`.
    #[must_use]
    pub fn vouch(&self, purpose: &str, public_key: &[u8]) -> RecoverableSignature {
        let digest = keccak256(&[purpose.as_bytes(), b":", hex::encode(public_key).as_bytes()]);
        sign(&self.key, &digest)
    }
}

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppKey([redacted])")
    }
}
