//! What carries out the decisions of [`crate::Paths`] on a running node: the clock, the streams' connections, TLS and tasks, the STUN
//! servers' names, and the WireGuard device.
//!
//! What a device reports never waits for the task that owns the machine, and no peer can fill the queue for another. A device may end
//! and another come: streams stay open meanwhile.

mod device;
mod events;
mod host;
mod reports;
mod run;
mod streams;

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc};

use mesh_core::{
    agent::{OwnEndpoint, PathPeers, PathsSeen},
    id::WireguardKey,
    network::MeshNetwork,
};
use mesh_tunnel::{DeviceHandle, Watch};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use self::{
    device::DeviceSlot,
    events::EventQueue,
    reports::Reports,
    run::{Inputs, Shell},
    streams::Streams,
};
pub use self::{
    device::{Device, StreamReader},
    events::EventSink,
    host::source_address,
};
use crate::{
    Config, Paths, path,
    rng::Seed,
    stream::{Certificate, Limits, Network, Tcp, tls},
};

/// The peers to keep paths to, and the network that they are in; `None` before the first.
type Wanted = Option<(Arc<PathPeers>, MeshNetwork)>;

/// How the paths are set up.
#[derive(Debug)]
pub struct Setup {
    /// Where to listen for streams, and the certificate to show; `None` to dial only.
    pub listen: Option<(SocketAddr, Certificate)>,
    /// Where every gateway is, instead of what DNS says of its name.
    pub gateway: Option<SocketAddr>,
    /// Times and sizes of the streams.
    pub limits: Limits,
    /// STUN servers, `HOST:PORT`.
    pub stun: Vec<String>,
    /// The tunnel's MTU, until the device says its own.
    pub mtu: u16,
    /// Something changed on this host.
    pub host_changed: watch::Receiver<()>,
    /// This host's addresses, with the device's port.
    pub local: watch::Receiver<Vec<SocketAddr>>,
    /// Where this node is registered.
    pub registered: watch::Receiver<OwnEndpoint>,
}

/// The paths cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error(
        "cannot listen for streams at {address}: {source}\nhint: another agent may have this port; choose another with `--gateway-listen`"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate.
    #[error(
        "cannot use the certificate for streams: {0}\nhint: certificate and key must be for each other; without any, one is made"
    )]
    Tls(#[from] rustls::Error),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Setup {
    /// Listens, if it is to. Nothing else happens before the returned future runs, which it does for ever. `epoch` is the moment from
    /// which the reports' times count.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        mut self,
        epoch: Instant,
    ) -> Result<(PathKeeper, DevicePort, impl Future<Output = Infallible> + Send + 'static), StartError> {
        let (listener, certificate) = match self.listen.take() {
            None => (None, None),
            Some((address, certificate)) => {
                let failed = |source| StartError::Listen { address, source };
                (Some(TcpListener::bind(address).await.map_err(failed)?), Some(certificate))
            }
        };
        let tcp = Tcp::new(listener, self.gateway, &self.limits);
        self.start_on(tcp, certificate, epoch)
    }

    /// The same over connections of another kind than TCP. Only with a certificate others are answered.
    ///
    /// # Errors
    /// [`StartError::Tls`], [`StartError::Random`].
    pub fn start_on<N: Network>(
        mut self,
        network: N,
        certificate: Option<Certificate>,
        epoch: Instant,
    ) -> Result<(PathKeeper, DevicePort, impl Future<Output = Infallible> + Send + 'static), StartError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(StartError::Random)?;
        let server = certificate.map(tls::server).transpose()?;
        let config = Config {
            redial_after: self.limits.redial_after,
            stun: std::mem::take(&mut self.stun),
            mtu: self.mtu,
            sources: host::sources(),
            local: self.local.borrow_and_update().clone(),
            registered: self.registered.borrow_and_update().address(),
        };
        let paths = Paths::new(config, &Seed::new(seed), epoch.elapsed());
        let port = DevicePort { slot: Arc::default(), events: Arc::default() };
        let reports = Arc::<Reports>::default();
        let (wanted, peers) = watch::channel(None);
        let ((tell, stopping), (stop, stopped)) = (mpsc::channel(1), mpsc::channel(1));
        let streams = Streams::new(network, self.limits, tls::client()?, server, Arc::clone(&port.slot));
        let inputs = Inputs {
            peers,
            stopping,
            stop: stopped,
            host_changed: self.host_changed,
            local: self.local,
            registered: self.registered,
        };
        let shell = Shell::new(paths, epoch, &port, Arc::clone(&reports), streams);
        Ok((PathKeeper { wanted, reports, tell, stop }, port, shell.run(inputs)))
    }
}

/// The agent's end of the paths.
#[derive(Debug)]
pub struct PathKeeper {
    wanted: watch::Sender<Wanted>,
    reports: Arc<Reports>,
    tell: mpsc::Sender<oneshot::Sender<()>>,
    stop: mpsc::Sender<oneshot::Sender<()>>,
}

/// The device's end of the paths: what makes and ends it says so here.
#[derive(Debug, Clone)]
pub struct DevicePort {
    slot: Arc<DeviceSlot>,
    events: Arc<EventQueue>,
}

impl PathKeeper {
    /// These are the peers from now on, in that network.
    pub fn set_peers(&self, peers: Arc<PathPeers>, network: MeshNetwork) {
        self.wanted.send_replace(Some((peers, network)));
    }

    /// How the paths are, when there is something new.
    pub async fn next(&mut self) -> PathsSeen {
        self.reports.take().await
    }

    /// Tells every peer that this node stops, while there is a device: once, before [`PathKeeper::stop`]. Takes 120 ms.
    pub fn tell_stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tell, (told, is_told)) = (self.tell.clone(), oneshot::channel());
        async move {
            if tell.send(told).await.is_err() || is_told.await.is_err() {
                tracing::error!("the peers were not told that this node stops");
            }
        }
    }

    /// The last: ends all streams in order, so that peers see that this node leaves, and not that a stream breaks. Two seconds at
    /// most.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.stop.send(done).await.is_err() || ended.await.is_err() {
            tracing::error!("the streams did not end as they should");
        }
    }
}

impl DevicePort {
    /// A device is about to be made: what its options need to have more than one path.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { tap: path::PORT, watcher: Arc::new(self.sink()) }
    }

    /// The same for a device of another kind.
    #[must_use]
    pub fn sink(&self) -> EventSink {
        self.events.sink()
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
    pub fn put_device(&self, device: Option<Arc<dyn Device>>) {
        let is_present = device.is_some();
        self.slot.put(device);
        self.events.add(|events| events.replaced(is_present));
    }

    /// The tunnel's MTU.
    pub fn set_mtu(&self, mtu: u16) {
        self.events.add(|events| events.set_mtu(mtu));
    }

    /// This peer was set on the device, which may have created it.
    pub fn peer_set(&self, peer: WireguardKey) {
        self.events.add(|events| events.peer_set(peer));
    }

    /// The device has this peer no more.
    pub fn peer_removed(&self, peer: WireguardKey) {
        self.events.add(|events| events.peer_removed(peer));
    }
}
