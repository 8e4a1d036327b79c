//! What an app key signs about a key that dstack derived from it, in the form of either guest API, and the two forms in which it
//! vouches for a node key.
//!
//! No bytes are of both forms. What v0 signs ends in a colon and 64 or 66 hexadecimal digits, whatever purpose a caller chooses; a claim
//! of v1 ends in the length 00 00 00 21 and a compressed key, whose first byte, 02 or 03, is no digit. And a signature by one key is
//! valid for one digest alone, so a registration need not say which form its app signature has.

use std::fmt;

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    registration::{NODE_KEY_DOMAIN, NODE_KEY_PURPOSE},
    signature::PublicKey,
};

/// What every claim of v1 begins with.
const V1_TAG: &[u8] = b"dstack-guest-v1-key-claim";
/// The only algorithm that the chain of a node key may name.
const V1_ALGORITHM: &[u8] = b"secp256k1";

/// A version of dstack's guest API. It decides which key an instance is given, and in which form the app key vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestApi {
    /// Of dstack 0.5, and frozen beside v1 since 0.6.
    V0,
    /// Of dstack 0.6.
    V1,
}

impl fmt::Display for GuestApi {
    /// As in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        })
    }
}

/// What an app key says about a secp256k1 key: `signature_chain[0]` of `GetKey` is its signature over what each says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClaim<'a> {
    /// `GetKey` of v0: keccak256(purpose ‖ ":" ‖ lower-case hex of the compressed key). The path, which alone decides the key, is
    /// not in it (dstack `guest-agent/src/rpc_service.rs`, `get_key`).
    V0 {
        /// Its second argument.
        purpose: &'a str,
    },
    /// `GetKey` of v1: keccak256(LP(`dstack-guest-v1-key-claim`) ‖ LP(`secp256k1`) ‖ LP(domain) ‖ LP(compressed key)), where LP(x) is
    /// the length of x in 4 bytes, big-endian, and x (dstack `docs/guest-api-v1.md`).
    V1 {
        /// Its first argument, which decides the key as well.
        domain: &'a str,
    },
}

impl KeyClaim<'static> {
    /// That of a node key.
    #[must_use]
    pub const fn of_node_key(api: GuestApi) -> Self {
        match api {
            GuestApi::V0 => Self::V0 { purpose: NODE_KEY_PURPOSE },
            GuestApi::V1 => Self::V1 { domain: NODE_KEY_DOMAIN },
        }
    }
}

impl KeyClaim<'_> {
    /// What the app key signs about `key`.
    pub(crate) fn digest(&self, key: &PublicKey) -> B256 {
        let key = key.compressed();
        match self {
            Self::V0 { purpose } => keccak256(format!("{purpose}:{}", hex::encode(key))),
            Self::V1 { domain } => {
                let parts = [V1_TAG, V1_ALGORITHM, domain.as_bytes(), &key];
                keccak256(parts.map(length_prefixed).concat())
            }
        }
    }
}

/// A part longer than its length can say, which no domain of ours is, hashes to nothing that was signed.
fn length_prefixed(part: &[u8]) -> Vec<u8> {
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), part].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(compressed: &str) -> PublicKey {
        PublicKey::from_compressed(&hex::decode(compressed).unwrap().try_into().unwrap()).unwrap()
    }

    /// Published beside the guest API (domain storage-encryption), and of the simulator's fixture and a root of 32 bytes 0x01.
    #[test]
    fn claims_of_v1_hash_to_the_published_digests() {
        for (domain, public_key, digest) in [
            (
                "storage-encryption",
                "03d962450a41748021c8b02787ac36ce642ff0ae25f4c55019eb527e1112cfd764",
                "6c9686d9a19b7e9c64439fbd6550e6c64edafca30b24c6360b17f72a83690ea1",
            ),
            (
                "test",
                "02bc3a78e1c1f5d94c2580dd06678ec48ae362aeed00906dbea5aa4d34713c240c",
                "3169a19a907906c53e3d93fce6ae5a0367e1d0dd923c2677bb25a1c318e7ee48",
            ),
            (
                "wgmesh/id",
                "027d74a3be0ae82e76216daba98e6af3f92ed6c176e7941c61566940be46d54b72",
                "863c026008063c83e16b8a7969f91f6521941a43ed28728d2e1b73415e96790b",
            ),
            (
                "test",
                "0320a1d910b2fc3542817fcc528f353865816e7b4b6e44f9b237f4526365a5defe",
                "f155bf084909b84078570ba2a74025407e78d8cb5b011c5fc814bb4de4dcdaa0",
            ),
        ] {
            let claim = KeyClaim::V1 { domain };
            assert_eq!(hex::encode(claim.digest(&key(public_key))), digest, "{domain}");
        }
        let claim = "0000001964737461636b2d67756573742d76312d6b65792d636c61696d00000009736563703235366b31\
                     0000001273746f726167652d656e6372797074696f6e\
                     0000002103d962450a41748021c8b02787ac36ce642ff0ae25f4c55019eb527e1112cfd764";
        let written_out = keccak256(hex::decode(claim).unwrap());
        let public_key = key("03d962450a41748021c8b02787ac36ce642ff0ae25f4c55019eb527e1112cfd764");
        assert_eq!(KeyClaim::V1 { domain: "storage-encryption" }.digest(&public_key), written_out);
    }

    #[test]
    fn a_claim_of_v0_hashes_to_the_published_digest() {
        let public_key = key("02c53a10a891f3c5d599539056edcfa080555ac975cae78e59b5d519dcdaf03389");
        let digest = KeyClaim::V0 { purpose: "test" }.digest(&public_key);
        assert_eq!(hex::encode(digest), "2f71e23a8fe3cd4d50beb3fb7e2c70321ec83376702754ef86fe4d2982774eea");
    }

    /// The bytes that follow a domain of one claim cannot be a part of another's domain: each part says how long it is.
    #[test]
    fn no_two_claims_are_the_same_bytes() {
        let public_key = key("02c53a10a891f3c5d599539056edcfa080555ac975cae78e59b5d519dcdaf03389");
        let texts =
            ["", NODE_KEY_DOMAIN, NODE_KEY_PURPOSE, "dstack-mesh/nod", "dstack-mesh/node/", "dstack-mesh/node\0"];
        let claims = texts.map(|domain| KeyClaim::V1 { domain }).into_iter();
        let claims = claims.chain(texts.map(|purpose| KeyClaim::V0 { purpose }));
        let mut digests: Vec<_> = claims.map(|claim| claim.digest(&public_key)).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 2 * texts.len());
    }
}
