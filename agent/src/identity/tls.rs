//! The TLS key: what a handshake proves this node by. The contract has the hash of its public part, bound by the signatures of the
//! registration, so that no certificate authority is asked, and dstack's gateway, which passes TLS through, cannot answer in its place.

use std::{fmt, time::Duration};

use mesh_core::id::TlsKey;
use mesh_tunnel::Secret;
use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey},
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _},
};
use sha2::{Digest as _, Sha256};
use x509_cert::{
    builder::{Builder as _, CertificateBuilder, Profile},
    der::{Encode as _, asn1::Ia5String},
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
    serial_number::SerialNumber,
    spki::SubjectPublicKeyInfoOwned,
    time::Validity,
};
use zeroize::Zeroizing;

/// Lifetime of a certificate, which is made anew at each start. What ends a key is the contract.
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// A node's TLS private key, for ECDSA on P-256, which every TLS library takes. Cannot be printed. A clone is another handle to it.
#[derive(Clone)]
pub struct TlsSecret {
    secret: Secret,
    key: TlsKey,
}

/// No certificate could be made for a key.
#[derive(Debug, thiserror::Error)]
#[error("no certificate for `{name}`: {reason}")]
pub struct BadName {
    /// The host name asked for.
    name: String,
    /// What is wrong.
    reason: String,
}

impl TlsSecret {
    /// `None` for bytes that are zero or not below the order of the group.
    #[must_use]
    pub fn new(bytes: impl Into<Secret>) -> Option<Self> {
        let secret = bytes.into();
        let public = SecretKey::from_slice(secret.bytes()).ok()?.public_key().to_public_key_der().ok()?;
        Some(Self { key: TlsKey(Sha256::digest(public.as_bytes()).into()), secret })
    }

    /// What the contract has of it: the SHA-256 of the public key as certificates have it.
    #[must_use]
    pub const fn key(&self) -> TlsKey {
        self.key
    }

    /// The private key in PKCS #8 (DER), as TLS libraries take it.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let document = self.scalar().to_pkcs8_der();
        document.map(|document| document.to_bytes()).unwrap_or_default()
    }

    /// A certificate of its own for these host names (DER). A peer that has the key from the contract looks at nothing else in it.
    ///
    /// # Errors
    /// One is no host name.
    pub fn certificate(&self, names: &[&str]) -> Result<Vec<u8>, BadName> {
        let of = |name: &str, reason: String| BadName { name: name.to_owned(), reason };
        let alternative = |name: &&str| {
            let text = Ia5String::new(*name).map_err(|error| of(name, error.to_string()))?;
            Ok(GeneralName::DnsName(text))
        };
        let alternatives = names.iter().map(alternative).collect::<Result<Vec<_>, BadName>>()?;
        self.build(alternatives).map_err(|error| of(names.first().copied().unwrap_or_default(), error.to_string()))
    }

    fn build(&self, alternatives: Vec<GeneralName>) -> Result<Vec<u8>, x509_cert::builder::Error> {
        let scalar = self.scalar();
        let signer = SigningKey::from(&scalar);
        let public = SubjectPublicKeyInfoOwned::from_key(scalar.public_key())?;
        // Of the key: two certificates of one key need not be told apart, those of two keys are.
        let serial = SerialNumber::new(&[&[1], &self.key.0[..15]].concat())?;
        let leaf =
            Profile::Leaf { issuer: Name::default(), enable_key_agreement: false, enable_key_encipherment: false };
        let mut builder =
            CertificateBuilder::new(leaf, serial, Validity::from_now(LIFETIME)?, Name::default(), public, &signer)?;
        // The subject may be empty where there is an alternative name (RFC 5280, section 4.1.2.6).
        builder.add_extension(&SubjectAltName(alternatives))?;
        Ok(builder.build::<DerSignature>()?.to_der()?)
    }

    /// The key, for as long as it is used; it wipes itself.
    fn scalar(&self) -> SecretKey {
        SecretKey::from_slice(self.secret.bytes()).expect("only a key of the group is kept")
    }
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use x509_cert::{Certificate, der::Decode as _};

    use super::*;

    fn secret(byte: u8) -> TlsSecret {
        TlsSecret::new(Zeroizing::new([byte; 32])).unwrap()
    }

    /// Computed by OpenSSL: the key of 32 bytes 0x01, `openssl pkey -pubout -outform DER | sha256sum`.
    #[test]
    fn the_key_is_the_hash_that_others_compute() {
        assert_eq!(secret(1).key().to_string(), "f857ae4ed6e34e33761aea25caaee3fe54a15960fb92dcd63a375ab121deb2a9");
    }

    #[test]
    fn a_certificate_is_of_the_key_and_for_the_names() {
        let secret = secret(2);
        let der = secret.certificate(&["a.gw.example", "b.gw.example"]).unwrap();
        let certificate = Certificate::from_der(&der).unwrap();
        let public = certificate.tbs_certificate.subject_public_key_info.to_der().unwrap();
        assert_eq!(TlsKey(Sha256::digest(public).into()), secret.key());
        let again = TlsSecret::new(Zeroizing::new([2; 32])).unwrap();
        assert_eq!(again.key(), secret.key());
        assert!(secret.certificate(&["\u{fc}.example"]).unwrap_err().to_string().contains("\u{fc}.example"));
    }

    #[test]
    fn what_is_no_key_is_refused_and_nothing_is_printed() {
        assert!(TlsSecret::new(Zeroizing::new([0; 32])).is_none());
        assert!(TlsSecret::new(Zeroizing::new([0xff; 32])).is_none());
        assert_eq!(format!("{:?}", secret(1)), "[redacted]");
        assert_ne!(secret(1).key(), secret(2).key());
    }
}
