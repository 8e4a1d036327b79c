//! What leads applications into a network in this process, and peers to applications.

use std::{convert::Infallible, future::pending, io, net::SocketAddrV4, sync::Arc, time::Duration};

use anyhow::Context as _;
use mesh_netstack::{Listener as PeerListener, NetError, Netstack, Stream as PeerStream};
use mesh_proxy::{Counters, Dial, DialError, Limits, Listener, SocketMode, Stream, Target, serve};
use mesh_tunnel::{DeviceOptions, Inside, PacketLink};
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    config::{ApplicationFlags, Expose},
    device::link::InProcess,
};

/// How long a local program may take to accept a connection.
const LOCAL: Duration = Duration::from_secs(10);

/// Bytes that are copied at once: a superpacket.
const COPY: usize = 64 << 10;

/// A network in this process, and what applications use it by: the options of the device that it is over, and its address.
///
/// # Errors
/// As [`start`], and where the system has no more threads or descriptors.
pub(super) fn in_process(
    device: DeviceOptions,
    asked: &ApplicationFlags,
    background: &mut JoinSet<io::Result<Infallible>>,
) -> anyhow::Result<(DeviceOptions, InProcess)> {
    let link = PacketLink::new()?;
    let links = InProcess::new(Netstack::start(link.clone()).context("cannot start the network in this process")?);
    if !asked.is_any() {
        tracing::warn!("no program can use the mesh: neither `--proxy`, `--forward` nor `--expose` is given");
    }
    start(asked, &links, background)?;
    Ok((DeviceOptions { inside: Inside::Memory(link), ..device }, links))
}

/// Opens every listener that was asked for; the tasks of `background` serve them.
///
/// # Errors
/// An address or port that cannot be had.
fn start(
    asked: &ApplicationFlags,
    links: &InProcess,
    background: &mut JoinSet<io::Result<Infallible>>,
) -> anyhow::Result<()> {
    let proxies = asked.proxy.iter().map(|listen| Listener::proxy(listen, SocketMode::Owner));
    let forwards = asked.forward.iter().map(|forward| Listener::forward(forward, SocketMode::Owner));
    let listeners = proxies.chain(forwards).collect::<Result<Vec<_>, _>>()?;
    if !listeners.is_empty() {
        let proxy =
            serve(listeners, Dialler(links.clone()), Limits::default(), Arc::new(Counters::default()), pending());
        background.spawn(async move {
            proxy.await;
            Err(io::Error::other("the proxy for applications ended"))
        });
    }
    for expose in &asked.expose {
        let port = expose.port.get();
        let listener = links.netstack().listen(port).with_context(|| format!("cannot expose port {port}"))?;
        background.spawn(lead_to(listener, *expose));
    }
    Ok(())
}

/// The way into the mesh.
struct Dialler(InProcess);

impl Dial for Dialler {
    async fn dial(&self, target: &Target) -> Result<Stream, DialError> {
        let network = self.0.network();
        let Some(network) = network else {
            let why = NetError::NoAddress.to_string();
            return Err(DialError::Unreachable { target: *target, why });
        };
        let address = target.address(network).ok_or(DialError::NotMember(*target))?;
        match self.0.netstack().connect(SocketAddrV4::new(address, target.port.get())).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(dial_error(*target, error)),
        }
    }
}

fn dial_error(target: Target, error: NetError) -> DialError {
    match error {
        NetError::Refused(_) => DialError::Refused(target),
        NetError::TooMany(limit) => DialError::TooMany { target, limit },
        NetError::OutsideMesh(_) => DialError::NotMember(target),
        NetError::OwnAddress(_) => DialError::NotPermitted { target, why: error.to_string() },
        NetError::NoAddress | NetError::TimedOut(_) | NetError::PortTaken(_) | NetError::Stopped => {
            DialError::Unreachable { target, why: error.to_string() }
        }
    }
}

/// Leads every connection of a peer to a local program. The stack bounds their number.
async fn lead_to(listener: PeerListener, expose: Expose) -> io::Result<Infallible> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let stream = accepted?;
                connections.spawn(async move {
                    let peer = stream.peer();
                    if let Err(error) = relay(stream, expose).await {
                        tracing::debug!(%peer, port = expose.port, to = %expose.to, %error, "a connection of a peer ended");
                    }
                });
            }
            Some(ended) = connections.join_next() => if let Err(error) = ended {
                tracing::warn!(%error, "a connection of a peer failed");
            },
        }
    }
}

async fn relay(mut peer: PeerStream, expose: Expose) -> io::Result<()> {
    let connected = timeout(LOCAL, TcpStream::connect(expose.to)).await;
    let mut local = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    local.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut peer, &mut local, COPY, COPY).await.map(drop)
}
