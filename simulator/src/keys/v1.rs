//! Keys and claims of the guest API v1 (dstack's `docs/guest-api-v1.md`). Every field is preceded by its length, so that no two
//! inputs are the same bytes. Nothing here gives a key or a signature that v0 gives, too.

use std::str::FromStr;

use k256::ecdsa::SigningKey;
use zeroize::Zeroizing;

use super::{AppKey, InvalidKey, RecoverableSignature, hkdf, keccak256, sign};

const KDF_SALT: &[u8] = b"dstack-guest-v1";
const KEY_TAG: &[u8] = b"dstack-guest-v1-key";
const CLAIM_TAG: &[u8] = b"dstack-guest-v1-key-claim";

/// What a key is for; there is no default, and no other name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over secp256k1; its public keys are compressed points of 33 bytes (SEC1).
    Secp256k1,
    /// EdDSA (RFC 8032); its public keys have 32 bytes.
    Ed25519,
}

/// A name that is no [`Algorithm`]'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownAlgorithm {
    /// None was named.
    #[error("algorithm is required, use `secp256k1` or `ed25519`")]
    Missing,
    /// Another one was.
    #[error("unsupported algorithm `{0}`, use `secp256k1` or `ed25519`")]
    Other(String),
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "secp256k1" => Ok(Self::Secp256k1),
            "ed25519" => Ok(Self::Ed25519),
            "" => Err(UnknownAlgorithm::Missing),
            other => Err(UnknownAlgorithm::Other(other.to_owned())),
        }
    }
}

impl Algorithm {
    /// Its name in requests, derivations and claims.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secp256k1 => "secp256k1",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The public key of a private one: a scalar for secp256k1, a seed for Ed25519.
    ///
    /// # Errors
    /// When the bytes are no secp256k1 private key.
    pub fn public_key(self, private: &[u8; 32]) -> Result<Vec<u8>, InvalidKey> {
        match self {
            Self::Secp256k1 => {
                let key = SigningKey::from_slice(private).map_err(|_| InvalidKey)?;
                Ok(key.verifying_key().to_encoded_point(true).as_bytes().to_vec())
            }
            Self::Ed25519 => Ok(ed25519_dalek::SigningKey::from_bytes(private).verifying_key().to_bytes().to_vec()),
        }
    }
}

/// What the app key signs to vouch for a key that it gave to `domain`.
#[must_use]
pub fn claim(domain: &str, algorithm: Algorithm, public_key: &[u8]) -> Vec<u8> {
    joined(&[CLAIM_TAG, algorithm.name().as_bytes(), domain.as_bytes(), public_key])
}

impl AppKey {
    /// Bytes for `domain` and `algorithm`: each pair has its own.
    #[must_use]
    pub fn derive_v1(&self, domain: &str, algorithm: Algorithm) -> Zeroizing<[u8; 32]> {
        let info = joined(&[KEY_TAG, algorithm.name().as_bytes(), domain.as_bytes()]);
        hkdf(KDF_SALT, &Zeroizing::new(self.key.to_bytes()), &[&info])
    }

    /// The app key's signature over a [`claim`]: `signature_chain[0]`.
    #[must_use]
    pub fn vouch_v1(&self, domain: &str, algorithm: Algorithm, public_key: &[u8]) -> RecoverableSignature {
        sign(&self.key, &keccak256(&[&claim(domain, algorithm, public_key)]))
    }
}

/// Each field after its length, four bytes big-endian.
fn joined(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        #[expect(clippy::expect_used, reason = "no request is longer than 10 MiB")]
        let length = u32::try_from(field.len()).expect("a field is shorter than 4 GiB");
        out.extend(length.to_be_bytes());
        out.extend(*field);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The app key that dstack's document publishes its vectors for.
    fn app_key() -> AppKey {
        let scalar = hex::decode("1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b").unwrap();
        AppKey::new(SigningKey::from_slice(&scalar).unwrap(), Vec::new())
    }

    #[test]
    fn keys_are_those_that_dstack_publishes() {
        let vectors = [
            (
                "",
                Algorithm::Secp256k1,
                "59f60584ce6fd2a3a31997256db9d77322463fc8a6b1520110401bcb1ee92387",
                "0377c7fb050db181d392266a3cee9adb2901c6d665f11bac68be5457f577ba4908",
            ),
            (
                "",
                Algorithm::Ed25519,
                "b023493030669cf22e9cafa6a464d4cf3ae4edfe5474ec796710f21ea011946d",
                "a3dc149fd5b765eab2eb7d3174fa939e39386898f10b15b7b146f6f1358ecf2a",
            ),
            (
                "storage-encryption",
                Algorithm::Secp256k1,
                "5510330f86902ddae38c6d89c93a8408019332c17a429e1abd01c4a28d1544a6",
                "03d962450a41748021c8b02787ac36ce642ff0ae25f4c55019eb527e1112cfd764",
            ),
            (
                "storage-encryption",
                Algorithm::Ed25519,
                "3c4c3ece12fa99ccb93fc0090877f80e70545fdd971e2ac93d3398c4684538d3",
                "2380c4a33a60b60613fa43866421e5b96eb8dcde211317200fd0d41e7e491288",
            ),
            (
                "wallet",
                Algorithm::Secp256k1,
                "2580611f0f936abe59399a8ac4ed9964d0259bd34c88ea012ca42b32acbf9386",
                "0369cecd3c8da88730f7d45875824c3e75f63a2d3da4be42f45671954daa2abb28",
            ),
            (
                "wallet",
                Algorithm::Ed25519,
                "d76a703b08ebb074b809b9d6acf3d7c6663131273807717ce9d23bbadc2c644e",
                "dade622d0fa1641e79b16e0b04e296be671f85f0aa6387b7d37e9d89f87494f5",
            ),
            (
                "a/b/c",
                Algorithm::Secp256k1,
                "7f0973449298085d2d36a3b4c4d3243c100ba1981ffa885fe9e9dee883e69538",
                "02e9b1a61b6d70aa9b241753828c316bf90e33e77b2e113f9ba75a8b6dc3cde5c1",
            ),
            (
                "k\0:ey",
                Algorithm::Ed25519,
                "42da8bf0b479ed125c370e3b91f982735bf08ff592abbd586985affa43ee96a1",
                "c833107822b003ff5675b33b90b151d4315c3ab9162b17d876e8dffde41abf9b",
            ),
        ];
        for (domain, algorithm, private, public) in vectors {
            let key = app_key().derive_v1(domain, algorithm);
            assert_eq!(hex::encode(key.as_ref()), private, "{domain:?} {algorithm:?}");
            assert_eq!(hex::encode(algorithm.public_key(&key).unwrap()), public, "{domain:?} {algorithm:?}");
        }
    }

    #[test]
    fn a_claim_and_its_signature_are_those_that_dstack_publishes() {
        let (domain, algorithm) = ("storage-encryption", Algorithm::Secp256k1);
        let public_key = algorithm.public_key(&app_key().derive_v1(domain, algorithm)).unwrap();
        let claim = claim(domain, algorithm, &public_key);
        assert_eq!(
            hex::encode(&claim),
            "0000001964737461636b2d67756573742d76312d6b65792d636c61696d00000009736563703235366b310000001273746f726167652d656e6372797074696f6e0000002103d962450a41748021c8b02787ac36ce642ff0ae25f4c55019eb527e1112cfd764"
        );
        assert_eq!(
            hex::encode(keccak256(&[&claim])),
            "6c9686d9a19b7e9c64439fbd6550e6c64edafca30b24c6360b17f72a83690ea1"
        );
        assert_eq!(
            hex::encode(app_key().vouch_v1(domain, algorithm, &public_key)),
            "5b6193729ce7976ec67863f21692d4b98c69832698aae8e001a7d33a6f818b6e46ca950725b6e90e8ca9bcf394abd03ce264bf9b7eec1e91693247f9dd53c26901"
        );
    }

    /// v0 has the app key sign `PURPOSE:HEX`, with any purpose: it can never end as a claim does.
    #[test]
    fn v0_signs_no_claim_of_v1() {
        for algorithm in [Algorithm::Secp256k1, Algorithm::Ed25519] {
            let public_key = algorithm.public_key(&[1; 32]).unwrap();
            let claim = claim("x", algorithm, &public_key);
            // Where a claim has the length of the key, what v0 signs has hex digits of one.
            let length_at = claim.len() - public_key.len() - 4;
            assert!(length_at > claim.len() - 2 * public_key.len());
            assert_eq!(claim[length_at..length_at + 3], [0; 3], "{algorithm:?}");
        }
    }

    #[test]
    fn algorithms_have_no_default_and_one_name() {
        assert_eq!("secp256k1".parse(), Ok(Algorithm::Secp256k1));
        assert_eq!("ed25519".parse(), Ok(Algorithm::Ed25519));
        assert_eq!("".parse::<Algorithm>(), Err(UnknownAlgorithm::Missing));
        for other in ["k256", "Ed25519", "secp256k1_prehashed", " secp256k1"] {
            assert_eq!(other.parse::<Algorithm>(), Err(UnknownAlgorithm::Other(other.to_owned())));
        }
    }
}
