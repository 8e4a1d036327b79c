//! One side of a measurement through the gateway: the agent's streams, paths and device, without a chain; or plain TLS, with which
//! they are compared. Started by `tunnel-bench`, in namespaces that it makes.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use ipnetwork::IpNetwork;
use mesh_core::agent::{GatewayPlace, OwnEndpoint, PathPeer, PathPeers};
use mesh_core::id::{InstanceId, TokenId, WireguardKey};
use mesh_core::network::MeshNetwork;
use mesh_paths::shell::Setup;
use mesh_paths::stream::tls::{client, server};
use mesh_paths::stream::{Certificate, DEFAULT_PORT, Limits, Place};
use mesh_tunnel::{DEFAULT_MTU, Device, DeviceOptions, DeviceUpdate, PeerUpdate, PrivateKey, PublicKey};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Bytes of each read and write of plain TLS.
const CHUNK: usize = 64 << 10;
/// The port on which the server listens for plain TLS.
const TLS_PORT: NonZeroU16 = NonZeroU16::new(8443).unwrap();

/// One side: the client is 0, the server is 1.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long, value_enum)]
    what: What,
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..2))]
    side: u8,
    /// The gateway's address, as seen from this side.
    #[arg(long)]
    gateway: SocketAddr,
    /// The gateway's base domain.
    #[arg(long)]
    domain: String,
    /// The tunnel's interface.
    #[arg(long, default_value = "gw0")]
    interface: String,
    /// How long the client sends.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// The tunnel, until this process is ended.
    Tunnel,
    /// One TLS connection, from the client to the server, which prints the bytes received and the time.
    Tls,
}

fn main() -> Result<()> {
    mesh_tunnel::keep_little_memory();
    let options = Options::parse();
    match (options.what, options.side) {
        (What::Tunnel, _) => tunnel(&options),
        (What::Tls, 0) => send(&options),
        (What::Tls, _) => take(),
    }
}

/// Public: nothing is secret here.
fn private_key(side: u8) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new([side + 1; 32]))
}

fn public_key(side: u8) -> PublicKey {
    private_key(side).public_key()
}

fn token(side: u8) -> TokenId {
    // Never zero, and so never refused.
    TokenId::new(u32::from(side) + 1).unwrap_or_else(|| unreachable!("token {side} + 1"))
}

fn inner(side: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, side + 1)
}

fn instance(side: u8) -> InstanceId {
    InstanceId([side + 1; 20])
}

fn place(side: u8, domain: &str) -> GatewayPlace {
    let port = NonZeroU16::new(DEFAULT_PORT).unwrap_or(NonZeroU16::MIN);
    GatewayPlace { instance: instance(side), port, domain: domain.to_owned() }
}

/// An agent's paths and device, with the other side as its only peer.
fn tunnel(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let Options { side, domain, interface, .. } = options;
        let (side, other) = (*side, 1 - side);
        let name = Place { instance: instance(side), port: place(side, domain).port, domain: domain.parse()? };
        let listen = (SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)), Certificate::self_signed(&name.to_string())?);
        let (changed, local) = (watch::Sender::new(()), watch::Sender::new(Vec::new()));
        let registered = watch::Sender::new(OwnEndpoint::None);
        let setup = Setup {
            listen: Some(listen),
            gateway: Some(options.gateway),
            limits: Limits::default(),
            stun: Vec::new(),
            mtu: DEFAULT_MTU,
            host_changed: changed.subscribe(),
            local: local.subscribe(),
            registered: registered.subscribe(),
        };
        let (mut keeper, port, paths) = setup.start(tokio::time::Instant::now()).await?;
        let watch = Some(port.watch());
        let device = Device::create(DeviceOptions { mtu: Some(DEFAULT_MTU), watch, ..DeviceOptions::new(interface) })?;
        let peer = PeerUpdate {
            allowed_ips: vec![IpNetwork::from(std::net::IpAddr::V4(inner(other)))],
            ..PeerUpdate::new(public_key(other))
        };
        device.apply(DeviceUpdate {
            private_key: Some(private_key(side)),
            peers: vec![peer],
            ..DeviceUpdate::default()
        })?;
        port.put(device.handle());
        let public_key = WireguardKey(*public_key(other).as_bytes());
        let peer = PathPeer { public_key, address: inner(other), place: Some(place(other, domain)) };
        let peers = PathPeers {
            own: token(side),
            own_address: inner(side),
            own_place: Some(place(side, domain)),
            peers: [(token(other), peer)].into(),
        };
        keeper.set_peers(Arc::new(peers), MeshNetwork::new(Ipv4Addr::new(10, 77, 0, 0), 24)?);
        port.peer_set(public_key);
        // Only an agent would use the state of the paths.
        tokio::spawn(async move {
            loop {
                drop(keeper.next().await);
            }
        });
        match paths.await {}
    })
}

/// Sends zeros as fast as possible.
fn send(options: &Options) -> Result<()> {
    let name = Place { instance: instance(1), port: TLS_PORT, domain: options.domain.parse()? };
    let name = name.to_string().try_into().context("the server's name")?;
    let tcp = TcpStream::connect(options.gateway).context("connect to the gateway")?;
    tcp.set_nodelay(true)?;
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(client()?), name)?, tcp);
    let (begun, zeros) = (Instant::now(), vec![0; CHUNK]);
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        tls.write_all(&zeros).context("send")?;
    }
    tls.conn.send_close_notify();
    tls.flush().context("end")?;
    // The server ends it when it has everything.
    match tls.read(&mut [0]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error).context("wait for the end"),
    }
}

/// Accepts one connection, and prints as JSON how many bytes were received in how many seconds.
#[expect(clippy::print_stdout, reason = "the program's output")]
fn take() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TLS_PORT.get())).context("listen")?;
    let (tcp, _) = listener.accept()?;
    let config = Arc::new(server(Certificate::self_signed("bench")?)?);
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, tcp);
    let mut buffer = vec![0; CHUNK];
    let (mut begun, mut bytes) = (None, 0);
    loop {
        let read = tls.read(&mut buffer).context("receive")?;
        if read == 0 {
            break;
        }
        begun.get_or_insert_with(Instant::now);
        bytes += read;
    }
    let seconds = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
    println!("{}", serde_json::json!({ "bytes": bytes, "seconds": seconds }));
    Ok(())
}
