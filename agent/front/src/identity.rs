//! This node's TLS key with its certificate.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::spki::SpkiSha256;

/// The key that this node has registered, and a certificate that carries it. Cloning shares the key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    spki: SpkiSha256,
}

/// Certificate and key make no identity.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the TLS key or its certificate cannot be used: {0}")]
pub struct BadIdentity(rustls::Error);

impl Identity {
    /// A certificate in DER and its private key in PKCS #8 DER; the caller wipes the latter.
    ///
    /// # Errors
    /// When one cannot be read, or they are not for each other.
    pub fn new(certificate: Vec<u8>, pkcs8: &[u8]) -> Result<Self, BadIdentity> {
        let certificate = CertificateDer::from(certificate);
        let spki = SpkiSha256::of_certificate(&certificate).map_err(BadIdentity)?;
        let borrowed = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let key = CertifiedKey::new(vec![certificate], any_supported_type(&borrowed).map_err(BadIdentity)?);
        key.keys_match().map_err(BadIdentity)?;
        Ok(Self { key: Arc::new(key), spki })
    }

    /// The name by which the contract knows it.
    #[must_use]
    pub const fn spki(&self) -> SpkiSha256 {
        self.spki
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("spki", &self.spki).finish_non_exhaustive()
    }
}
