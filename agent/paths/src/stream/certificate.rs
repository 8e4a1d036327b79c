//! The certificate that a listener shows. Nothing relies on it (see [`super::tls`]), so its key is not kept: each start has
//! another.

use std::{fmt, time::Duration};

use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey},
    elliptic_curve::rand_core::{OsRng, RngCore as _},
    pkcs8::EncodePrivateKey as _,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use x509_cert::{
    builder::{Builder as _, CertificateBuilder, Profile},
    der::{Encode as _, asn1::Ia5String},
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
    serial_number::SerialNumber,
    spki::SubjectPublicKeyInfoOwned,
    time::Validity,
};

/// Lifetime of a self-signed certificate; clients do not look at it.
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// A certificate chain, own certificate first, and its key.
pub struct Certificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain.len()).field("key", &"[redacted]").finish()
    }
}

/// No certificate could be made of what there is.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct BadCertificate {
    what: &'static str,
    reason: String,
}

impl Certificate {
    /// What the guest agent's `GetTlsKey` gave: PEM of the chain, own certificate first, and of the key.
    ///
    /// # Errors
    /// When something is not PEM, or there is no certificate.
    pub fn from_pem(chain: &[String], key: &str) -> Result<Self, BadCertificate> {
        // The words for a bad key say nothing of its bytes.
        let bad = |what| move |error: rustls::pki_types::pem::Error| BadCertificate { what, reason: error.to_string() };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad("the key is not PEM"))?;
        let chain: Result<Vec<_>, _> = chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes())).collect();
        let chain = chain.map_err(bad("a certificate is not PEM"))?;
        if chain.is_empty() {
            return Err(BadCertificate { what: "no certificate", reason: "the chain is empty".to_owned() });
        }
        Ok(Self { chain, key })
    }

    /// One of our own, for where the guest agent gives none.
    ///
    /// # Errors
    /// When `name` is no host name.
    pub fn self_signed(name: &str) -> Result<Self, BadCertificate> {
        let failed = |reason: String| BadCertificate { what: "no self-signed certificate", reason };
        let key = SecretKey::random(&mut OsRng);
        let signer = SigningKey::from(&key);
        let build = || -> Result<Vec<u8>, x509_cert::builder::Error> {
            let public = SubjectPublicKeyInfoOwned::from_key(key.public_key())?;
            let validity = Validity::from_now(LIFETIME)?;
            let serial = SerialNumber::from(OsRng.next_u64());
            let leaf =
                Profile::Leaf { issuer: Name::default(), enable_key_agreement: false, enable_key_encipherment: false };
            // The subject may be empty where there is an alternative name (RFC 5280, section 4.1.2.6).
            let mut builder = CertificateBuilder::new(leaf, serial, validity, Name::default(), public, &signer)?;
            builder.add_extension(&SubjectAltName(vec![GeneralName::DnsName(Ia5String::new(name)?)]))?;
            Ok(builder.build::<DerSignature>()?.to_der()?)
        };
        let certificate = build().map_err(|error| failed(error.to_string()))?;
        let encoded = key.to_pkcs8_der().map_err(|error| failed(error.to_string()))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(encoded.as_bytes().to_vec()));
        Ok(Self { chain: vec![certificate.into()], key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_certificates_are_refused_and_keys_are_not_printed() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(Certificate::from_pem(&[], key).unwrap_err().to_string().contains("empty"));
        assert!(Certificate::from_pem(std::slice::from_ref(&pem), "no").is_err());
        assert!(Certificate::from_pem(&["no".to_owned()], key).is_err());
        let invalid = Certificate::from_pem(&[pem], key).unwrap();
        assert!(format!("{invalid:?}").contains("[redacted]"));
        assert!(super::super::tls::server(invalid).is_err());
        assert!(Certificate::self_signed("nämlich").is_err());
    }
}
