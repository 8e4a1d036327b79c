//! Callers and servers that are no members, or not the one they are taken for.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_front::{DialError, Limits, Member};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::{self, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::world::{Key, Node, PATIENCE, echo, introduce, pair, place, tell, until};

/// A client of the attacker's own: it takes any server.
fn client(versions: &[&'static SupportedProtocolVersion], shows: Option<CertifiedKey>) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    match shows {
        Some(key) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => config.with_no_client_auth(),
    }
}

/// The certificate of one with the private key of another, or both of the same.
fn shown(certificate: &Key, key: &Key) -> CertifiedKey {
    let signer = any_supported_type(&PrivateKeyDer::Pkcs8(key.pkcs8.as_slice().into())).unwrap();
    CertifiedKey::new(vec![certificate.certificate.clone().into()], signer)
}

async fn connect(front: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(front).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    timeout(PATIENCE, TlsConnector::from(Arc::clone(config)).connect(name, tcp)).await.unwrap()
}

/// Says something and listens. In TLS 1.3 a client is told only then that it is not let in.
async fn talks(front: SocketAddr, config: ClientConfig) -> io::Result<()> {
    let mut tls = connect(front, &Arc::new(config)).await?;
    tls.write_all(b"let me in").await?;
    tls.flush().await?;
    timeout(PATIENCE, tls.read_u8()).await.unwrap().map(drop)
}

/// A sibling of the same app boots the same code and can draw keys and certificates as it likes; its key is not in the contract.
#[tokio::test]
async fn a_genuine_certificate_with_an_unregistered_key_is_refused() {
    let [one, two] = pair().await;
    let sibling = Key::new();
    let error = talks(one.front, client(&[&TLS13], Some(shown(&sibling, &sibling)))).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    until("the refusal to be counted", || one.counts().not_members == 1).await;
    // What it would have shown by the dialer is refused in the same way.
    assert!(echo(&mut two.dialer_as(&sibling).dial(one.token, None).await.unwrap(), b"hello").await.is_err());
    assert_eq!((one.served(), one.counts().accepted), (0, 0));
}

#[tokio::test]
async fn a_members_certificate_without_its_key_is_refused() {
    let [one, two] = pair().await;
    let error = talks(one.front, client(&[&TLS13], Some(shown(&two.key, &Key::new())))).await.unwrap_err();
    assert!(error.to_string().contains("DecryptError"), "{error}");
    until("the refusal to be counted", || one.counts().failed_handshakes == 1).await;
    assert_eq!(one.served(), 0);
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let [one, _two] = pair().await;
    let error = talks(one.front, client(&[&TLS13], None)).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert_eq!(one.served(), 0);
}

#[tokio::test]
async fn older_versions_of_tls_are_refused_even_to_members() {
    let [one, two] = pair().await;
    let error = talks(one.front, client(&[&TLS12], Some(shown(&two.key, &two.key)))).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    assert_eq!(one.served(), 0);
}

/// The token is the same, and the chain may be; the keys are not.
#[tokio::test]
async fn a_member_of_another_cluster_is_refused_in_both_directions() {
    let [one, two] = pair().await;
    let [other_one, other_two] = pair().await;
    // Each takes the other cluster's front for that of its own member.
    let led_astray = |own: &Node, member: &Node, front: &Node| {
        let elsewhere = Member { place: Some(place(front.front)), ..member.member().1 };
        tell(&[own], &BTreeMap::from([own.member(), (member.token, elsewhere)]));
    };
    led_astray(&two, &one, &other_one);
    let error = two.dialer().dial(one.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::WrongKey(_, token) if token == one.token), "{error}");
    // One that accepts any server is refused there.
    let error = talks(other_one.front, client(&[&TLS13], Some(shown(&two.key, &two.key)))).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert_eq!(other_one.served() + other_two.served(), 0);
}

/// The gateway leads the name of one node to another: by mistake, or because it is the attacker's.
#[tokio::test]
async fn the_name_of_one_node_is_not_answered_by_another_member() {
    let [one, two] = pair().await;
    let three = Node::start(3, Limits::default()).await;
    introduce(&[&one, &two, &three]);
    let led_to_three = Member { place: Some(place(three.front)), ..two.member().1 };
    tell(&[&one], &BTreeMap::from([one.member(), (two.token, led_to_three), three.member()]));
    let error = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::WrongKey(_, token) if token == two.token), "{error}");
    assert_eq!((two.served(), three.served()), (0, 0));
    echo(&mut one.dialer().dial(three.token, None).await.unwrap(), b"by its own name").await.unwrap();
}

/// It has the certificate, which every caller is shown.
#[tokio::test]
async fn a_server_that_has_a_members_certificate_but_not_its_key_is_refused() {
    let [one, two] = pair().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown(&two.key, &Key::new()))));
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map(drop)
    });
    let impostor = Member { place: Some(place(front)), ..two.member().1 };
    tell(&[&one], &BTreeMap::from([one.member(), (two.token, impostor)]));
    let error = one.dialer().dial(two.token, None).await.unwrap_err();
    assert!(matches!(error, DialError::Refused(..)) && error.to_string().contains("BadSignature"), "{error}");
    assert!(server.await.unwrap().is_err());
}

/// Every byte that a member sent is sent again, as one who carries packets can.
#[tokio::test]
async fn a_recorded_connection_opens_nothing() {
    let [one, two] = pair().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = Member { place: Some(place(listener.local_addr().unwrap())), ..one.member().1 };
    tell(&[&two], &BTreeMap::from([(one.token, through), two.member()]));
    let front = one.front;
    let recorder = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(front).await.unwrap();
        let ((mut from, mut back), (mut answers, mut to)) = (near.split(), far.split());
        let record = async {
            let mut recorded = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = from.read(&mut buffer).await.unwrap();
                if read == 0 {
                    to.shutdown().await.unwrap();
                    return recorded;
                }
                recorded.extend_from_slice(&buffer[..read]);
                to.write_all(&buffer[..read]).await.unwrap();
            }
        };
        tokio::join!(record, tokio::io::copy(&mut answers, &mut back)).0
    });
    let mut stream = two.dialer().dial(one.token, None).await.unwrap();
    echo(&mut stream, b"transfer everything").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err(), "that is all");
    drop(stream);
    let recorded = timeout(PATIENCE, recorder).await.unwrap().unwrap();
    assert!(recorded.len() > 500, "a handshake is longer than {} bytes", recorded.len());
    assert_eq!(one.served(), 1);

    let mut again = TcpStream::connect(one.front).await.unwrap();
    again.write_all(&recorded).await.unwrap();
    let mut answer = Vec::new();
    // With or without a reset, as the rest of the recording is in its way.
    drop(timeout(PATIENCE, again.read_to_end(&mut answer)).await.unwrap());
    until("the refusal to be counted", || one.counts().failed_handshakes == 1).await;
    assert_eq!((one.served(), one.counts().accepted), (1, 1));
}

/// A client that would like to resume proves its key every time all the same: else a removed one would come back by a ticket.
#[tokio::test]
async fn nothing_is_resumed() {
    let [one, two] = pair().await;
    // rustls keeps tickets by default.
    let config = Arc::new(client(&[&TLS13], Some(shown(&two.key, &two.key))));
    for _ in 0..3 {
        let mut tls = connect(one.front, &config).await.unwrap();
        tls.write_all(b"x").await.unwrap();
        assert_eq!(timeout(PATIENCE, tls.read_u8()).await.unwrap().unwrap(), b'x');
        let state = tls.get_ref().1;
        assert_eq!(state.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(state.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(state.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn what_is_no_tls_ends_at_once() {
    let [one, _two] = pair().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        &[0xff; 70_000],
        &[22, 3, 1, 0xff, 0xff],
    ] {
        let mut tcp = TcpStream::connect(one.front).await.unwrap();
        // The front may have closed it before the last byte.
        drop(tcp.write_all(garbage).await);
        drop(tcp.shutdown().await);
        let mut answer = Vec::new();
        drop(timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it is not closed"));
        assert!(answer.len() <= 7, "more than an alert: {answer:?}");
    }
    until("all to be counted", || one.counts().failed_handshakes == 4).await;
    assert_eq!(one.served(), 0);
}

#[tokio::test]
async fn a_caller_that_is_slow_with_its_handshake_is_dropped() {
    let limits = Limits { handshake: Duration::from_millis(100), ..Limits::default() };
    let one = Node::start(1, limits).await;
    let mut slow = TcpStream::connect(one.front).await.unwrap();
    slow.write_all(&[22, 3]).await.unwrap();
    let ended = timeout(PATIENCE, slow.read_u8()).await.expect("it goes on");
    assert!(ended.is_err());
    assert_eq!(one.counts().slow_handshakes, 1);
}

/// Thousands who say nothing: the oldest give way, so that a member still comes in.
#[tokio::test]
async fn connections_that_say_nothing_hold_no_place_that_a_member_needs() {
    let limits = Limits { handshakes: 32, handshake: PATIENCE * 10, ..Limits::default() };
    let one = Node::start(1, limits).await;
    let two = Node::start(2, Limits::default()).await;
    introduce(&[&one, &two]);
    let mut silent = Vec::new();
    for _ in 0..2000 {
        silent.push(TcpStream::connect(one.front).await.unwrap());
        // This process has both ends of each, and not more descriptors than it is given.
        if silent.len() > 200 {
            silent.remove(0);
        }
    }
    until("the oldest to give way", || {
        let counts = one.counts();
        counts.slow_handshakes + counts.failed_handshakes >= 2000 - 32
    })
    .await;
    let mut member = two.dialer().dial(one.token, None).await.unwrap();
    echo(&mut member, b"here").await.unwrap();
    // A member that is in is not one of them.
    for _ in 0..100 {
        silent.push(TcpStream::connect(one.front).await.unwrap());
    }
    echo(&mut member, b"still here").await.unwrap();
    assert_eq!(one.counts().accepted, 1);
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
