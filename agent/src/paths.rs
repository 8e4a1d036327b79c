//! Two paths to every peer, joined: direct UDP and the stream through the gateway become one tunnel, and which of them carries a
//! packet is chosen anew whenever something happens.
//!
//! ```text
//!  device ── probes, traffic, endpoints, STUN ──► Inbox ──┐
//!  streams ── opened, replaced, ended ────────────────────┤
//!  agent ── these are the peers ──────────────────────────┼─► driver ─► routes, probes, attempts to punch ─► device
//!  machine ── addresses, links ───────────────────────────┤        └──► calls to make ─► streams
//!  clock ── probes that are due ──────────────────────────┘        └──► what is known of every path ─► agent
//! ```
//!
//! What is decided is decided in `mesh_core` ([`mesh_core::path`], [`mesh_core::punch`]) for each peer by itself; here is the one
//! task that has clock and randomness for all of them. It wakes when something of some peer is due, and looks at that peer alone.
//! What a device tells never waits for it, and no peer can fill its inbox for the others.
//!
//! A device may end and another come: streams stay open meanwhile, and the new one is given them with the routes.

mod candidates;
mod device;
mod driver;
mod inbox;
mod local;
mod peer;
mod report;
mod schedule;
mod streams;
mod stun;
mod tunnel;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use mesh_core::{
    agent::{OwnEndpoint, PathPeers, PathsSeen},
    id::WireguardKey,
    network::MeshNetwork,
    path,
};
use mesh_tunnel::{DeviceHandle, Watch};
use tokio::sync::{mpsc, watch};

use self::{
    device::Slot,
    driver::{Driver, Inputs},
    inbox::{Ear, Inbox},
    streams::Streams,
};
pub use self::{
    device::{PathDevice, StreamEnd},
    local::follow,
};
use crate::{
    gateway::{self, StartError, Transport},
    run::Clock,
};

/// The peers to keep paths to, and the network that they are in; `None` before the first.
type Wanted = Option<(Box<PathPeers>, MeshNetwork)>;

/// How the paths are set up.
#[derive(Debug)]
pub struct Setup {
    /// The streams.
    pub gateway: gateway::Config,
    /// STUN servers, `HOST:PORT`.
    pub stun: Vec<String>,
    /// The tunnel's MTU, until the device says its own.
    pub mtu: u16,
    /// Something changed on this machine.
    pub machine_changed: watch::Receiver<()>,
    /// This machine's addresses, with the device's port.
    pub local: watch::Receiver<Vec<SocketAddr>>,
    /// Where this node is registered.
    pub registered: watch::Receiver<OwnEndpoint>,
}

/// The agent's end of the paths.
#[derive(Debug)]
pub struct PathKeeper {
    wanted: watch::Sender<Wanted>,
    seen: mpsc::Receiver<PathsSeen>,
    transport: Arc<Transport>,
}

/// The device's end of the paths: whoever makes and ends it says so here.
#[derive(Debug, Clone)]
pub struct DevicePort {
    slot: Arc<Slot>,
    inbox: Arc<Inbox>,
}

/// A device's ear: what it tells. Of any device but the last one that was asked for an ear nothing is heard.
#[derive(Debug)]
pub struct DeviceEar(Ear);

/// Starts the streams. Nothing else happens before the returned future runs, which it does for ever.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    setup: Setup,
    clock: Clock,
) -> Result<(PathKeeper, DevicePort, impl Future<Output = Infallible> + Send + 'static), StartError> {
    let random = getrandom::u64().map_err(StartError::Random)?;
    let port = DevicePort { slot: Arc::default(), inbox: Arc::default() };
    let (routed, routes) = mpsc::unbounded_channel();
    let streams = Arc::new(Streams::new(Arc::clone(&port.slot), routed));
    let transport = Arc::new(Transport::start(setup.gateway, streams).await?);
    let (wanted, wishes) = watch::channel(None);
    let (tell, seen) = mpsc::channel(1);
    let driver = Driver::new(clock, &port, Arc::clone(&transport), tell, setup.mtu, random, setup.stun);
    let inputs = Inputs {
        inbox: Arc::clone(&port.inbox),
        routed: routes,
        wanted: wishes,
        machine_changed: setup.machine_changed,
        local: setup.local,
        registered: setup.registered,
    };
    Ok((PathKeeper { wanted, seen, transport }, port, driver.run(inputs)))
}

impl PathKeeper {
    /// These are the peers from now on, in that network.
    pub fn set_peers(&self, peers: Box<PathPeers>, network: MeshNetwork) {
        self.wanted.send_replace(Some((peers, network)));
    }

    /// How the paths are, when there is something new. Pending for ever once the driver has ended.
    pub async fn next(&mut self) -> PathsSeen {
        match self.seen.recv().await {
            Some(seen) => seen,
            None => std::future::pending().await,
        }
    }

    /// The last: ends all streams in order, so that peers see that this node leaves, and not that a stream breaks. Two seconds at
    /// most.
    pub async fn stop(&self) {
        self.transport.stop().await;
    }
}

impl DevicePort {
    /// A device is about to be made: what its options need to have two paths.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { tap: path::PORT, watcher: Arc::new(self.inbox.ear()) }
    }

    /// The same for a device of another kind.
    #[must_use]
    pub fn ear(&self) -> DeviceEar {
        DeviceEar(self.inbox.ear())
    }

    /// This is the device now.
    pub fn put(&self, device: DeviceHandle) {
        self.put_device(Some(Arc::new(device)));
    }

    /// There is none any more.
    pub fn remove(&self) {
        self.put_device(None);
    }

    /// The same as [`DevicePort::put`] and [`DevicePort::remove`] for a device of any kind.
    pub fn put_device(&self, device: Option<Arc<dyn PathDevice>>) {
        self.slot.put(device);
        self.inbox.device_changed();
    }

    /// The tunnel's MTU.
    pub fn set_mtu(&self, mtu: u16) {
        self.inbox.mtu(mtu);
    }

    /// The device was told of this peer, and may have made it.
    pub fn peer_set(&self, peer: WireguardKey) {
        self.inbox.peer_set(peer);
    }

    /// The device has this peer no more.
    pub fn peer_removed(&self, peer: WireguardKey) {
        self.inbox.peer_removed(peer);
    }
}

impl DeviceEar {
    /// A packet between the probe ports came from the peer by that way.
    pub fn probe(&self, peer: WireguardKey, way: path::PathKind, packet: &[u8]) {
        self.0.probe(peer, way, packet);
    }

    /// Packets of applications went to the peer.
    pub fn sent(&self, peer: WireguardKey) {
        self.0.sent(peer);
    }

    /// Packets of applications came from the peer by that way.
    pub fn received(&self, peer: WireguardKey, way: path::PathKind) {
        self.0.received(peer, way);
    }

    /// The peer's UDP endpoint is this now.
    pub fn endpoint(&self, peer: WireguardKey, endpoint: SocketAddr) {
        self.0.endpoint(peer, endpoint);
    }

    /// A datagram that looks like STUN's came to the device's UDP port.
    pub fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        self.0.stun(from, datagram);
    }
}
