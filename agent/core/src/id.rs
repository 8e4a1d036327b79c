//! The mesh's identifiers: tokens, instances, keys, blocks.

use std::{fmt, str::FromStr};

pub use alloy_primitives::{Address, B256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Text that does not parse as one of this module's ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    /// The offending text in full: ids are public.
    pub text: String,
    /// What would have been right, e.g. "an instance id (40 hex digits)".
    pub expected: &'static str,
}

/// An NFT of the cluster contract: the right to run one node, and the host part of that node's mesh address.
/// Always at least 1. Contracts count in `uint256`; anything above `u32` is outside every possible mesh network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TokenId(u32);

impl TokenId {
    /// `None` for zero, which no token has.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The number, at least 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TokenId {
    type Error = ParseIdError;
    fn try_from(id: u32) -> Result<Self, ParseIdError> {
        Self::new(id).ok_or_else(|| ParseIdError { text: id.to_string(), expected: "a token id (1 or more)" })
    }
}

impl From<TokenId> for u32 {
    fn from(token: TokenId) -> Self {
        token.0
    }
}

impl FromStr for TokenId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parsed = text.parse().ok().and_then(Self::new);
        parsed.ok_or_else(|| ParseIdError { text: text.to_owned(), expected: "a token id (1 or more)" })
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 20 bytes by which dstack names one CVM (`Info.instance_id`), printed as 40 lower-case hex digits without `0x`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 20]);

/// The 20 bytes by which dstack names an app: with an on-chain KMS the address of its app contract. Printed like an
/// [`InstanceId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub [u8; 20]);

/// A WireGuard (X25519) public key, printed in base64 as `wg` does. Any 32 bytes: whether it is usable is decided by
/// `desired`, not here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

/// The SHA-256 of a TLS public key as a certificate has it (`SubjectPublicKeyInfo`, DER: RFC 7469, 2.4), printed as 64 lower-case hex
/// digits. Never zero on chain, where zero means that there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsKey(pub [u8; 32]);

impl TlsKey {
    /// Of the contract's word; `None` for zero.
    #[must_use]
    pub fn from_word(word: [u8; 32]) -> Option<Self> {
        (word != [0; 32]).then_some(Self(word))
    }

    /// The contract's word for a key or none.
    #[must_use]
    pub fn to_word(key: Option<Self>) -> [u8; 32] {
        key.map_or([0; 32], |key| key.0)
    }
}

/// A member's secp256k1 public key in SEC1 compressed form, printed in hex. `proof::verify` recovers it from a signature, so that
/// it is a point of the curve; anywhere else it is any 33 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub [u8; 33]);

impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<AppId> for Address {
    fn from(app_id: AppId) -> Self {
        Self(app_id.0.into())
    }
}

impl From<Address> for AppId {
    fn from(address: Address) -> Self {
        Self(address.into_array())
    }
}

macro_rules! bytes_as_hex {
    ($name:ident, $length:literal, $expected:literal) => {
        impl FromStr for $name {
            type Err = ParseIdError;
            /// Accepts hex digits of any case, with or without `0x`.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let mut bytes = [0; $length];
                hex::decode_to_slice(digits, &mut bytes)
                    .map_err(|_| ParseIdError { text: text.to_owned(), expected: $expected })?;
                Ok(Self(bytes))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
    };
}
bytes_as_hex!(InstanceId, 20, "an instance id (40 hex digits)");
bytes_as_hex!(AppId, 20, "an app id (40 hex digits)");
bytes_as_hex!(TlsKey, 32, "the SHA-256 of a TLS key (64 hex digits)");

impl FromStr for WireguardKey {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError { text: text.to_owned(), expected: "a WireGuard public key (32 bytes in base64)" };
        let bytes = STANDARD.decode(text).map_err(|_| error())?;
        bytes.try_into().map(Self).map_err(|_| error())
    }
}

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

macro_rules! text_serde_and_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
text_serde_and_debug!(InstanceId, AppId, WireguardKey, TlsKey);

/// One block of the chain: what a snapshot is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Header hash; reads name the block by this, never by number.
    pub hash: B256,
    /// Header timestamp, Unix seconds.
    pub timestamp: u64,
}
