//! Recoverable secp256k1 signatures, read as strictly as the contract reads them: 65 bytes r ‖ s ‖ v, v in {0, 1, 27, 28},
//! low s, a key that exists. One signature has one accepted form, so malleation yields nothing.

use alloy_primitives::{Address, B256};
use k256::{
    EncodedPoint,
    ecdsa::{RecoveryId, Signature, VerifyingKey},
};

/// Why bytes are not a signature or not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignature {
    /// v is none of 0, 1, 27, 28.
    #[error("recovery id {0} is none of 0, 1, 27, 28")]
    RecoveryId(u8),
    /// r or s is zero or not below the group order.
    #[error("r or s is out of range")]
    Range,
    /// s is above half the group order.
    #[error("s is high")]
    HighS,
    /// No key made this signature.
    #[error("no public key recovers")]
    NoKey,
}

/// A secp256k1 public key that is a point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From coordinates x ‖ y; `None` when they are not a point of the curve.
    pub(crate) fn from_coordinates(coordinates: &[u8; 64]) -> Option<Self> {
        let point = EncodedPoint::from_untagged_bytes(coordinates.into());
        VerifyingKey::from_encoded_point(&point).ok().map(Self)
    }

    /// From SEC1 compressed form; `None` when it is not a point of the curve.
    pub(crate) fn from_compressed(bytes: &[u8; 33]) -> Option<Self> {
        VerifyingKey::from_sec1_bytes(bytes).ok().map(Self)
    }

    /// Coordinates x ‖ y.
    pub(crate) fn coordinates(&self) -> [u8; 64] {
        let mut coordinates = [0; 64];
        coordinates.copy_from_slice(&self.0.to_encoded_point(false).as_bytes()[1..]);
        coordinates
    }

    /// SEC1 compressed form: what dstack signs.
    pub(crate) fn compressed(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes.copy_from_slice(self.0.to_encoded_point(true).as_bytes());
        bytes
    }

    /// Its Ethereum address.
    pub(crate) fn address(&self) -> Address {
        Address::from_raw_public_key(&self.coordinates())
    }
}

/// The key that signed `digest`.
pub(crate) fn recover(digest: B256, signature: &[u8; 65]) -> Result<PublicKey, InvalidSignature> {
    let [rs @ .., v] = signature;
    let parity = match v {
        0 | 27 => false,
        1 | 28 => true,
        other => return Err(InvalidSignature::RecoveryId(*other)),
    };
    let signature = Signature::from_slice(rs).map_err(|_| InvalidSignature::Range)?;
    if signature.normalize_s().is_some() {
        return Err(InvalidSignature::HighS);
    }
    VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, RecoveryId::new(parity, false))
        .map(PublicKey)
        .map_err(|_| InvalidSignature::NoKey)
}
