//! The name of a TLS key: the SHA-256 of its SubjectPublicKeyInfo in DER, as the contract has it.

use std::{fmt, str::FromStr};

use rustls::{Error, pki_types::CertificateDer, server::ParsedCertificate};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a SubjectPublicKeyInfo (RFC 5280, section 4.1), the whole structure in DER. Printed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpkiSha256(pub [u8; 32]);

/// A text that is no such hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the SHA-256 of a public key (64 hex digits)")]
pub struct BadSpki(String);

impl SpkiSha256 {
    /// Of the key in a certificate, by the parser that rustls checks the handshake's signature with: one certificate can name no
    /// second key here.
    ///
    /// # Errors
    /// When it is no X.509 certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }
}

impl fmt::Display for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpkiSha256 {
    type Err = BadSpki;

    fn from_str(text: &str) -> Result<Self, BadSpki> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadSpki(text.chars().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for SpkiSha256 {
    type Error = BadSpki;

    fn try_from(text: String) -> Result<Self, BadSpki> {
        text.parse()
    }
}

impl From<SpkiSha256> for String {
    fn from(key: SpkiSha256) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_64_hex_digits() {
        let key = SpkiSha256([0xab; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string(), "ab".repeat(32));
        for bad in ["", "ab", &"xy".repeat(32), &"ab".repeat(33)] {
            assert!(bad.parse::<SpkiSha256>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_key() {
        assert!(SpkiSha256::of_certificate(&CertificateDer::from(vec![0x30, 0])).is_err());
    }
}
