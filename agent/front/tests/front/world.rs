//! Nodes with a key, a front and a dialer each, around one list of members.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use mesh_core::id::{InstanceId, TokenId};
use mesh_front::{Dialer, Front, FrontCounts, FrontRule, Identity, Limits, Member, Members, Place, SpkiSha256, Trust};
use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey},
    elliptic_curve::rand_core::OsRng,
    pkcs8::EncodePrivateKey as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use x509_cert::{
    builder::{Builder as _, CertificateBuilder, Profile},
    der::Encode as _,
    name::Name,
    serial_number::SerialNumber,
    spki::SubjectPublicKeyInfoOwned,
    time::Validity,
};

use crate::gateway::gateway;

/// Only a fault reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A key with its certificate.
pub(crate) struct Key {
    pub(crate) certificate: Vec<u8>,
    pub(crate) pkcs8: Vec<u8>,
    pub(crate) identity: Identity,
}

impl Key {
    /// A new one; its certificate is over before anyone sees it, which must not matter.
    pub(crate) fn new() -> Self {
        let key = SecretKey::random(&mut OsRng);
        let signer = SigningKey::from(&key);
        let public = SubjectPublicKeyInfoOwned::from_key(key.public_key()).unwrap();
        let validity = Validity::from_now(Duration::ZERO).unwrap();
        let leaf =
            Profile::Leaf { issuer: Name::default(), enable_key_agreement: false, enable_key_encipherment: false };
        let serial = SerialNumber::from(1u8);
        let builder = CertificateBuilder::new(leaf, serial, validity, Name::default(), public, &signer).unwrap();
        let certificate = builder.build::<DerSignature>().unwrap().to_der().unwrap();
        let pkcs8 = key.to_pkcs8_der().unwrap().as_bytes().to_vec();
        let identity = Identity::new(certificate.clone(), &pkcs8).unwrap();
        Self { certificate, pkcs8, identity }
    }

    pub(crate) fn spki(&self) -> SpkiSha256 {
        self.identity.spki()
    }
}

/// A node: its front leads to an application that sends back what it gets.
pub(crate) struct Node {
    pub(crate) token: TokenId,
    pub(crate) key: Key,
    pub(crate) members: watch::Sender<Arc<Members>>,
    pub(crate) front: SocketAddr,
    counts: Arc<mesh_front::Counts>,
    /// Connections that its application got.
    pub(crate) served: Arc<AtomicUsize>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Node {
    pub(crate) async fn start(token: u32, limits: Limits) -> Self {
        let (echo, served) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(AtomicUsize::new(0)));
        let target = echo.local_addr().unwrap();
        let counted = Arc::clone(&served);
        let application = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = echo.accept().await.unwrap();
                counted.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let (mut read, mut write) = tcp.split();
                    // A connection that breaks is the business of the test at its other end.
                    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                        drop(write.shutdown().await);
                    }
                });
            }
        });
        let mut node = Self::before(token, target, limits).await;
        node.served = served;
        node.tasks.push(application.abort_handle());
        node
    }

    /// A node whose front leads to `target`.
    pub(crate) async fn before(token: u32, target: SocketAddr, limits: Limits) -> Self {
        Self::with_rule(token, free_rule(target).await, limits)
    }

    pub(crate) fn with_rule(token: u32, rule: FrontRule, limits: Limits) -> Self {
        let key = Key::new();
        let members = watch::Sender::new(Arc::new(Members::none()));
        let front = Front::bind(&[rule]).unwrap();
        let address = front.addresses().unwrap()[0];
        let counts = Arc::clone(&front.counts()[0].1);
        let (identity, watched) = (key.identity.clone(), members.subscribe());
        let serving = tokio::spawn(async move { front.serve(&identity, watched, limits).await });
        Self {
            token: TokenId::new(token).unwrap(),
            key,
            members,
            front: address,
            counts,
            served: Arc::default(),
            tasks: vec![serving.abort_handle()],
        }
    }

    pub(crate) fn dialer(&self) -> Dialer {
        self.dialer_as(&self.key)
    }

    /// One that sees what this node sees, with another key.
    pub(crate) fn dialer_as(&self, key: &Key) -> Dialer {
        Dialer::new(key.identity.clone(), self.members.subscribe(), Some(gateway()), Limits::default())
    }

    pub(crate) fn counts(&self) -> FrontCounts {
        self.counts.now()
    }

    pub(crate) fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    pub(crate) fn member(&self) -> (TokenId, Member) {
        (self.token, Member { key: self.key.spki(), place: Some(place(self.front)) })
    }
}

/// Port 0 is refused to operators, so a free one is found and given back first.
async fn free_rule(target: SocketAddr) -> FrontRule {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    format!("{free}={target}").parse().unwrap()
}

/// The gateway finds it by its port.
pub(crate) fn place(address: SocketAddr) -> Place {
    let port = NonZeroU16::new(address.port());
    Place { instance: InstanceId([0xab; 20]), port, domain: "gw.test".parse().unwrap() }
}

/// Lets all of them know all of them.
pub(crate) fn introduce(nodes: &[&Node]) {
    tell(nodes, &nodes.iter().map(|node| node.member()).collect());
}

/// Tells these nodes that these are the members.
pub(crate) fn tell(nodes: &[&Node], members: &BTreeMap<TokenId, Member>) {
    for node in nodes {
        let own = members.contains_key(&node.token).then_some(node.token);
        let trust = Trust::Until(Instant::now() + PATIENCE * 10);
        node.members.send_replace(Arc::new(Members::new(own, members.clone(), trust)));
    }
}

/// Two nodes that know each other.
pub(crate) async fn pair() -> [Node; 2] {
    let nodes = [Node::start(1, Limits::default()).await, Node::start(2, Limits::default()).await];
    introduce(&[&nodes[0], &nodes[1]]);
    nodes
}

/// Says something and gets it back.
pub(crate) async fn echo(stream: &mut mesh_front::MemberStream, words: &[u8]) -> std::io::Result<()> {
    let exchange = async {
        stream.write_all(words).await?;
        stream.flush().await?;
        let mut back = vec![0; words.len()];
        stream.read_exact(&mut back).await?;
        assert_eq!(back, words);
        Ok(())
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}
