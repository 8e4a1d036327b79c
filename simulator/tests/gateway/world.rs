//! A gateway, instances on loopback addresses of their own, and clients that say hello as rustls does.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dstack_simulator::gateway::{Counts, Gateway, Instance, Limits, Registry};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// The app of every instance.
pub(crate) const APP: [u8; 20] = [0x11; 20];

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// A gateway for `gw.test` and who is behind it.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) registry: Registry,
    /// Where every instance listens, if it does.
    pub(crate) port: u16,
    /// How many `refused` has seen.
    pub(crate) refusals: AtomicU64,
}

/// The id of instance `n`.
pub(crate) fn id(n: u8) -> [u8; 20] {
    [0xa0 + n; 20]
}

pub(crate) fn instance(n: u8) -> Instance {
    Instance { app_id: APP, instance_id: id(n), ip: ip(n), ports: None, worker: None }
}

pub(crate) fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 77, n).into()
}

impl World {
    /// Instances 1 to N, freshest first, each listening at the same port of its own address.
    pub(crate) async fn start<const N: usize>(limits: Limits) -> (Self, [TcpListener; N]) {
        let (port, listeners) = loop {
            let first = TcpListener::bind((ip(1), 0)).await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for n in 2..=u8::try_from(N).unwrap() {
                match TcpListener::bind((ip(n), port)).await {
                    Ok(listener) => listeners.push(listener),
                    // Another program has this port: try another one.
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
                }
            }
            if let Ok(listeners) = listeners.try_into() {
                break (port, listeners);
            }
        };
        let registry = Registry::default();
        registry.replace((1..=u8::try_from(N).unwrap()).map(instance).collect()).unwrap();
        // No client connects from there: when the gateway is gone, no connection can take its port.
        let gateway = start_gateway((ip(254), 0).into(), limits, &registry).await;
        (Self { gateway, registry, port, refusals: AtomicU64::new(0) }, listeners)
    }

    /// `<id>-<port>s.gw.test`.
    pub(crate) fn name(&self, id: [u8; 20]) -> String {
        format!("{}-{}s.gw.test", hex(id), self.port)
    }

    /// A connection to the gateway that has said nothing yet.
    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = within("the gateway", TcpStream::connect(self.gateway.address())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection that has named where it wants to go, and what it sent for that.
    pub(crate) async fn dial(&self, name: &str) -> (TcpStream, Vec<u8>) {
        let hello = client_hello(name);
        let mut stream = self.connect().await;
        stream.write_all(&hello).await.unwrap();
        (stream, hello)
    }

    /// Both ends of a connection to the instance behind `listener`, past the hello.
    pub(crate) async fn pair(&self, id: [u8; 20], listener: &TcpListener) -> (TcpStream, TcpStream) {
        let (client, hello) = self.dial(&self.name(id)).await;
        let (mut instance, _) = within("the gateway's connection", listener.accept()).await.unwrap();
        assert_eq!(read(&mut instance, hello.len()).await, hello, "the instance gets what the client said");
        (client, instance)
    }

    /// Looks at the counts until they are as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Counts) -> bool) -> Counts {
        let counts = || self.gateway.counts();
        let wait = async {
            while !wanted(&counts()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, wait).await;
        assert!(reached.is_ok(), "waited too long for {what}: {:?}", counts());
        counts()
    }

    /// Asserts that the gateway closes this connection without a byte, and counts it as refused: one more than before.
    pub(crate) async fn refused(&self, mut client: TcpStream) {
        silent_end(&mut client).await;
        let all = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        self.until("a refusal", |counts| counts.refused >= all).await;
    }
}

pub(crate) async fn start_gateway(address: SocketAddr, limits: Limits, registry: &Registry) -> Gateway {
    Gateway::start(address, &["gw.test".parse().unwrap()], limits, registry).await.unwrap()
}

/// A listener whose queue is full, so that connections to it hang; with the connections that fill it.
pub(crate) async fn hanging(n: u8, port: u16) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((ip(n), port).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 16, "a queue of length 0 takes one or two connections");
    }
    (listener, queued)
}

/// The ClientHello of a rustls client that wants `name`.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let roots = RootCertStore::empty();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Exactly so many bytes.
pub(crate) async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    within("bytes", stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Waits for the end, before which nothing must come.
pub(crate) async fn silent_end(stream: &mut TcpStream) {
    assert_eq!(String::from_utf8_lossy(&rest(stream).await), "");
}

/// Everything up to the end, be it a FIN or a reset.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match within("the end", stream.read_to_end(&mut bytes)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    bytes
}

/// One byte each way.
pub(crate) async fn exchange(client: &mut TcpStream, instance: &mut TcpStream) {
    client.write_all(b"?").await.unwrap();
    assert_eq!(read(instance, 1).await, b"?");
    instance.write_all(b"!").await.unwrap();
    assert_eq!(read(client, 1).await, b"!");
}

pub(crate) fn hex(id: [u8; 20]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
