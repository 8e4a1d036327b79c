//! TLS with members: by the key of the one that was asked for, and no other.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dstack_p2p::{
    Error, TokenId,
    tls::{MemberStream, TlsMembers},
};
use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey},
    elliptic_curve::rand_core::OsRng,
    pkcs8::{EncodePrivateKey as _, LineEnding},
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use x509_cert::{
    builder::{Builder as _, CertificateBuilder, Profile},
    der::{Encode as _, EncodePem as _},
    name::Name,
    serial_number::SerialNumber,
    spki::SubjectPublicKeyInfoOwned,
    time::Validity,
};

use crate::{
    PATIENCE, Scratch,
    agent::{FakeAgent, peers, status, tls_peer},
    node, until,
};

const WATCH: &str = "/v1/tls/config/watch";

/// A key and its certificate, which is over before it is seen: that must not matter.
struct Key {
    certificate: x509_cert::Certificate,
    secret: SecretKey,
    pin: String,
}

impl Key {
    fn new() -> Self {
        let secret = SecretKey::random(&mut OsRng);
        let signer = SigningKey::from(&secret);
        let public = SubjectPublicKeyInfoOwned::from_key(secret.public_key()).unwrap();
        let pin = Sha256::digest(public.to_der().unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        let (serial, validity) = (SerialNumber::from(1u8), Validity::from_now(Duration::ZERO).unwrap());
        let leaf =
            Profile::Leaf { issuer: Name::default(), enable_key_agreement: false, enable_key_encipherment: false };
        let builder = CertificateBuilder::new(leaf, serial, validity, Name::default(), public, &signer).unwrap();
        Self { certificate: builder.build::<DerSignature>().unwrap(), secret, pin }
    }
}

/// A member that sends back what it hears from the key of `caller`.
struct Member {
    key: Key,
    port: u16,
    serving: AbortHandle,
}

impl Member {
    async fn new(caller: &Key, version: &'static SupportedProtocolVersion) -> Self {
        let key = Key::new();
        let certificate = CertificateDer::from(key.certificate.to_der().unwrap());
        let secret = PrivatePkcs8KeyDer::from(key.secret.to_pkcs8_der().unwrap().as_bytes().to_vec());
        let caller = Caller(caller.certificate.to_der().unwrap());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(Arc::new(caller))
            .with_single_cert(vec![certificate], PrivateKeyDer::from(secret))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A caller may end the handshake, as some tests want.
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        let (mut reader, mut writer) = tokio::io::split(tls);
                        let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    }
                });
            }
        });
        Self { key, port, serving: serving.abort_handle() }
    }

    fn listed(&self, token: u32) -> Value {
        listed(token, &self.key.pin, Some(self.port))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Takes the certificate of one caller.
#[derive(Debug)]
struct Caller(Vec<u8>);

impl ClientCertVerifier for Caller {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        assert_eq!(end_entity.as_ref(), self.0, "another certificate was shown");
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn listed(token: u32, pin: &str, port: Option<u16>) -> Value {
    let host = port.map(|_| "localhost");
    json!({ "token_id": token, "name": format!("node-{token}"), "spki_sha256": pin, "url": null, "host": host, "port": port })
}

/// This node, and the agent that lists members. Each connection gets one list and ends, so that the next one soon gets the next.
struct World {
    agent: FakeAgent,
    own: Key,
    key_file: PathBuf,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let (scratch, own) = (Scratch::new(), Key::new());
        let agent = FakeAgent::running(&scratch.join("agent.sock"), &status("active"), &peers([tls_peer(8)]));
        let key_file = scratch.join("key.pem");
        std::fs::write(&key_file, own.secret.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()).unwrap();
        Self { agent, own, key_file, scratch }
    }

    fn say<const N: usize>(&self, members: [Value; N], valid_for_ms: u64) {
        let own = json!({
            "token_id": 7, "name": "node-7", "url": null, "spki_sha256": self.own.pin,
            "certificate": self.own.certificate.to_pem(LineEnding::LF).unwrap(), "private_key_file": self.key_file,
        });
        let list = json!({ "schema": "p2p-agent.tls/v1", "self": own, "valid_for_ms": valid_for_ms, "members": members.to_vec() });
        self.agent.answer(WATCH, 200, &format!("event: tls\ndata: {list}\n\n"));
    }

    async fn tls(&self) -> TlsMembers {
        node(&self.scratch.join("agent.sock"), "auto").build().unwrap().tls().await.unwrap()
    }
}

fn token(id: u32) -> TokenId {
    TokenId::new(id).unwrap()
}

async fn talk(stream: &mut MemberStream) {
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_member_is_called_and_a_revoked_one_loses_what_is_open() {
    let world = World::new();
    let (eight, nine) = (Member::new(&world.own, &TLS13).await, Member::new(&world.own, &TLS13).await);
    world.say([eight.listed(8), nine.listed(9)], 60_000);
    let tls = world.tls().await;
    assert_eq!(tls.member("node-9").unwrap().token_id, token(9));
    let (mut first, mut kept) = (tls.connect(token(8)).await.unwrap(), tls.connect(token(9)).await.unwrap());
    talk(&mut first).await;
    let config = Arc::new(tls.client_config(token(8)).unwrap());

    // Two tasks wait on it: the one that reads hears of the revocation, too.
    let (mut reader, mut writer) = tokio::io::split(first);
    let reading = tokio::spawn(async move { reader.read_u8().await });
    writer.write_all(b"").await.unwrap();
    world.say([nine.listed(9)], 60_000);
    let ended = timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(writer.write_all(b"more").await.is_err());
    assert!(matches!(tls.connect(token(8)).await, Err(Error::NotAMember(_))));
    timeout(PATIENCE, tls.until_revoked(token(8))).await.unwrap();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", eight.port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    assert!(connector.connect("localhost".try_into().unwrap(), tcp).await.is_err(), "settings from before let it in");
    talk(&mut kept).await;

    // What was made by it ends with it.
    drop(tls);
    assert!(timeout(PATIENCE, kept.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn another_members_key_and_older_tls_are_refused() {
    let world = World::new();
    let (eight, nine) = (Member::new(&world.own, &TLS13).await, Member::new(&world.own, &TLS13).await);
    let old = Member::new(&world.own, &TLS12).await;
    // Where node 8 is said to be, node 9 answers, which is a member itself.
    world.say(
        [listed(8, &eight.key.pin, Some(nine.port)), nine.listed(9), old.listed(10), listed(11, &nine.key.pin, None)],
        60_000,
    );
    let tls = world.tls().await;
    for wrong in [8, 10] {
        let error = tls.connect(token(wrong)).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
    }
    assert!(matches!(tls.connect(token(11)).await, Err(Error::NotPermitted(_))));
    assert!(matches!(tls.connect_front(token(9), 6379).await, Err(Error::NotPermitted(_))), "localhost is one place");
    std::fs::remove_file(&world.key_file).unwrap();
    assert!(matches!(tls.client_config(token(9)), Err(Error::NotPermitted(_))));
}

#[tokio::test]
async fn what_expires_ends_all() {
    let world = World::new();
    let eight = Member::new(&world.own, &TLS13).await;
    world.say([eight.listed(8)], 60_000);
    let tls = world.tls().await;
    let mut stream = tls.connect(token(8)).await.unwrap();
    talk(&mut stream).await;
    world.say([eight.listed(8)], 0);
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
    until("the list's end", || tls.members().is_empty()).await;
    world.say([eight.listed(8)], 60_000);
    until("the list to be back", || tls.members().len() == 1).await;
}

#[tokio::test]
async fn a_node_without_a_key_is_told() {
    let world = World::new();
    let socket = world.scratch.join("agent.sock");
    world.agent.answer(WATCH, 404, r#"{"error":"this node has no TLS key","hint":"give `--front`"}"#);
    let node = node(&socket, "auto").restart_within(Duration::from_millis(500)).build().unwrap();
    let error = node.tls().await.unwrap_err();
    assert!(error.to_string().ends_with("no TLS key\nhint: give `--front`"), "{error}");
}
