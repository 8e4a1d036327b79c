//! `appkeys.json`: keys that another KMS issued, as dstack's own simulator reads them.

use std::path::{Path, PathBuf};

use k256::ecdsa::SigningKey;
use p256::SecretKey;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::certificate::{Authority, CertificateError};
use crate::keys::{Address, AppId, AppKey, checksummed, derive};

/// Roots whose published fixtures exist: by these an app id given on the command line can be checked.
const KNOWN_ROOTS: [Address; 3] = [
    // dstack sdk/simulator/appkeys.json since 2026-01-15
    address_literal("A7F6043C29f9cc1d9D6aCF554c53E0c6792AaEAf"),
    // the same file before, and `phala simulator`
    address_literal("8f2cF602C9695b23130367ed78d8F557554de7C5"),
    // Phala's production KMS on Base
    address_literal("52d3CF51c8A37A2CCfC79bBb98c7810d7Dd4CE51"),
];

/// Why a fixture cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The file cannot be read.
    #[error("cannot read the fixture `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what dstack writes. The text names no values: the file holds keys.
    #[error("the fixture is no appkeys.json: {0}")]
    Malformed(&'static str),
    /// The app id and the KMS signature do not belong together, or that cannot be checked.
    #[error(
        "k256_signature with app id {app_id} recovers to {recovered}, which is no known KMS root: \
         the app id is wrong, or the root is yours; name it with --kms-root to serve this fixture"
    )]
    WrongAppId {
        /// The app id as given, hex.
        app_id: String,
        /// What the signature recovers to with it.
        recovered: String,
    },
    /// The certificate authority could not be made.
    #[error("cannot make the fixture's certificate authority: {0}")]
    Authority(String),
}

impl From<CertificateError> for FixtureError {
    fn from(error: CertificateError) -> Self {
        Self::Authority(error.to_string())
    }
}

/// Keys from an `appkeys.json`.
pub(crate) struct Fixture {
    pub(crate) key: AppKey,
    pub(crate) authority: Authority,
}

#[derive(Deserialize)]
struct AppKeys<'a> {
    /// Borrowed, so that the only copy is the text, which is wiped. Hex has nothing that JSON escapes.
    k256_key: &'a str,
    #[serde(default)]
    k256_signature: String,
    #[serde(default)]
    ca_cert: String,
    #[serde(default)]
    key_provider: serde_json::Map<String, serde_json::Value>,
}

impl Fixture {
    pub(crate) fn read(path: &Path) -> Result<Self, FixtureError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| FixtureError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, FixtureError> {
        let keys: AppKeys<'_> = serde_json::from_str(text)
            .map_err(|_| FixtureError::Malformed("a JSON object with k256_key, k256_signature is expected"))?;
        // Exactly 32 bytes: k256 would take a shorter scalar and pad it.
        let scalar = hex::decode(keys.k256_key)
            .map(Zeroizing::new)
            .ok()
            .filter(|scalar| scalar.len() == 32)
            .ok_or(FixtureError::Malformed("k256_key is not 32 bytes of hex"))?;
        let key = SigningKey::from_slice(&scalar)
            .map_err(|_| FixtureError::Malformed("k256_key is no secp256k1 private key"))?;
        let issued = hex::decode(&keys.k256_signature)
            .ok()
            .filter(|signature| matches!(signature.len(), 0 | 65))
            .ok_or(FixtureError::Malformed("k256_signature is not 65 bytes of hex"))?;
        // The provider's variants: None, Local and Tpm carry the authority's key; Kms keeps it to itself.
        let authority_key = keys.key_provider.values().find_map(|provider| provider.get("key")?.as_str());
        let authority = match authority_key {
            Some(pem) => Authority::from_pem(&keys.ca_cert, pem)
                .ok_or(FixtureError::Malformed("ca_cert and key_provider's key are no P-256 pair in PEM"))?,
            None => {
                let scalar = derive(&scalar, &[b"SIMULATED app CA"]);
                let key = SecretKey::from_slice(scalar.as_ref())
                    .map_err(|_| FixtureError::Malformed("no authority key can be derived from k256_key"))?;
                Authority::self_signed(&key, "SIMULATED app CA")?
            }
        };
        Ok(Self { key: AppKey::new(key, issued), authority })
    }

    /// The KMS root, `None` where the fixture has no KMS signature.
    ///
    /// A signature recovers to *some* address with any app id: only comparison with a known root proves the right one.
    pub(crate) fn check(&self, app_id: &AppId, root: Option<Address>) -> Result<Option<Address>, FixtureError> {
        if self.key.issued().is_empty() {
            return Ok(None);
        }
        let recovered = self.key.root(app_id);
        let expected = |found: &Address| root.map_or_else(|| KNOWN_ROOTS.contains(found), |root| root == *found);
        recovered.filter(expected).map(Some).ok_or_else(|| FixtureError::WrongAppId {
            app_id: hex::encode(app_id),
            recovered: recovered.as_ref().map_or_else(|| "nothing".to_owned(), checksummed),
        })
    }
}

const fn address_literal(hex: &str) -> Address {
    const fn nibble(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => panic!("not a hex digit"),
        }
    }
    let hex = hex.as_bytes();
    let mut address = [0; 20];
    let mut i = 0;
    while i < 20 {
        address[i] = nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]);
        i += 1;
    }
    address
}
