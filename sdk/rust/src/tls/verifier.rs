//! What a peer's certificate needs: the key of the member that is asked for, and of no other.

use std::sync::Arc;

use mesh_core::id::{B256, TokenId};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::follow::View;

#[derive(Debug)]
pub(super) struct OneMember {
    pub(super) token: TokenId,
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneMember {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // By the parser that the handshake's signature is checked with: one certificate can name no second key.
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let found = B256::new(Sha256::digest(key.as_ref()).into());
        // Where nothing is followed any longer, no member is one.
        let is_followed = self.views.has_changed().is_ok();
        let expected = self.views.borrow().config().and_then(|config| config.pin(self.token));
        if is_followed && expected == Some(found) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
