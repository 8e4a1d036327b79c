//! The TLS around a stream. It is there because the gateway routes by the server name in it, and for nothing else: secrecy and
//! identity come from WireGuard inside, whose handshake names both ends by keys that the contract vouches for. So any certificate
//! is accepted, nothing is resumed, and what is negotiated is the cheapest that TLS 1.3 has. A host on the path can cut
//! a stream, as any host that carries packets can; it learns what an observer of WireGuard's UDP packets learns.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    version::TLS13,
};

use super::certificate::Certificate;

/// A client that takes any certificate whose key signed the handshake.
///
/// # Errors
/// When rustls does not agree with the provider; it does.
pub fn client() -> Result<ClientConfig, Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(AnyCertificate { algorithms: provider.signature_verification_algorithms });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A ticket would save a signature every few hours, and lengthen the ClientHello, in which the gateway looks for the name.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A server with that certificate.
///
/// # Errors
/// When certificate and key are not for each other, or of a kind that is not known.
pub fn server(certificate: Certificate) -> Result<ServerConfig, Error> {
    let Certificate { chain, key } = certificate;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// One small key exchange: the ClientHello stays far below the 4,096 bytes in which the gateway looks for the name, and fits one
/// packet. AES-128 first: processors do it in hardware, and nothing depends on it.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

/// Accepts every certificate, but checks that the other end has its key: what is signed is this handshake.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
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
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        ClientConnection, ServerConnection,
        sign::{CertifiedKey, SingleCertAndKey},
    };

    use super::*;

    fn pair() -> (ClientConnection, ServerConnection) {
        let name = format!("{}-51822s.{}.example", "ab".repeat(20), "x".repeat(63));
        let server = server(Certificate::self_signed(&name).unwrap()).unwrap();
        let client = ClientConnection::new(Arc::new(client().unwrap()), name.try_into().unwrap()).unwrap();
        (client, ServerConnection::new(Arc::new(server)).unwrap())
    }

    fn pass(from: &mut Vec<u8>, to: &mut ServerConnection) -> Result<(), Error> {
        let mut bytes = &from[..];
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets()?;
        }
        from.clear();
        Ok(())
    }

    #[test]
    fn the_hello_is_one_small_record_of_tls_1_3() {
        let (mut client, _) = pair();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        assert!(hello.len() < 512, "{}", hello.len());
        let record = 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        assert_eq!((hello[0], record), (22, hello.len()), "one handshake record and nothing else");
    }

    #[test]
    fn any_certificate_will_do_and_no_session_is_kept() {
        let (mut client, mut server) = pair();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            pass(&mut up, &mut server).unwrap();
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            let mut bytes = &down[..];
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
            }
            down.clear();
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(client.tls13_tickets_received(), 0);
    }

    /// A host shows the certificate of another: what it signs the handshake with is not the key in it.
    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let other = Certificate::self_signed("other").unwrap();
        let Certificate { key, .. } = Certificate::self_signed("own").unwrap();
        let signer = provider().key_provider.load_private_key(key).unwrap();
        let stolen = CertifiedKey::new(other.chain, signer);
        let server = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(stolen)));
        let (mut client, _) = pair();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.write_tls(&mut up).unwrap();
        pass(&mut up, &mut server).unwrap();
        while server.wants_write() {
            server.write_tls(&mut down).unwrap();
        }
        let mut bytes = &down[..];
        let mut outcome = Ok(());
        while !bytes.is_empty() && outcome.is_ok() {
            client.read_tls(&mut bytes).unwrap();
            outcome = client.process_new_packets().map(drop);
        }
        assert_eq!(outcome, Err(CertificateError::BadSignature.into()));
    }
}
