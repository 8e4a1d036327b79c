//! dstack's gateway as CVMs and their clients meet it: a TCP proxy that routes TLS by server name without ending it.
//!
//! After dstack/gateway of dstack 0.5 and 0.6: the grammar of names, who is tried, what is refused, and every limit.
//! What it leaves out is named in the simulator's README.

mod limits;
mod name;
mod policy;
mod registry;

mod instances_file;

mod connection;
mod counts;
mod hello;
mod relay;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tracing::Instrument as _;

use connection::Connection;
use counts::Counters;
pub use counts::Counts;
pub use instances_file::InstancesError;
pub use limits::{Limits, MAX_DURATION, duration};
pub use name::{BadDomain, BadName, Domain, Route, TlsEnd};
pub use registry::{Instance, MAX_INSTANCES, Registry};

/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}\nhint: choose another --listen; port 0 takes a free one")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// A running gateway; dropping it closes its port and every connection soon after, [`Gateway::stop`] at once.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use dstack_simulator::gateway::{Gateway, Instance, Limits, Registry};
///
/// let registry = Registry::default();
/// let gateway = Gateway::start("127.0.0.1:0".parse()?, &["gw.test".parse()?], Limits::default(), &registry).await?;
/// // Whatever listens on 127.0.0.1:51822 is now reached at `<22…22>-51822s.gw.test`, through `gateway.address()`.
/// let ip = "127.0.0.1".parse()?;
/// registry.replace(vec![Instance { app_id: [0x11; 20], instance_id: [0x22; 20], ip, ports: None, worker: None }])?;
/// # Ok(())
/// # }
/// ```
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
    /// Ends the acceptor when it is dropped.
    _running: oneshot::Sender<()>,
}

/// What every connection needs.
struct Shared {
    domains: Vec<Domain>,
    limits: Limits,
    registry: Registry,
    counters: Counters,
    next: AtomicU64,
}

impl Gateway {
    /// Listens at `address` for names below `domains`; it answers when this returns. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When the address is in use or is not this machine's.
    pub async fn start(
        address: SocketAddr,
        domains: &[Domain],
        limits: Limits,
        registry: &Registry,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            domains: domains.to_vec(),
            limits,
            registry: registry.clone(),
            counters: Counters::default(),
            next: AtomicU64::new(1),
        });
        let (running, ended) = oneshot::channel();
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared), ended));
        Ok(Self { address, shared, acceptor, _running: running })
    }

    /// Where it listens, with the port it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counters.read(&self.shared.registry)
    }

    /// Closes the port and every connection: both are gone when this returns, as after the end of a process.
    pub async fn stop(self) {
        let Self { acceptor, _running: running, .. } = self;
        drop(running);
        if let Err(error) = acceptor.await {
            tracing::error!(%error, "the acceptor did not end as it should");
        }
    }
}

/// Accepts connections until the other end of `ended` is dropped, then closes them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut ended: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        while let Some(done) = connections.try_join_next() {
            if let Err(error) = done {
                tracing::error!(%error, "a connection did not end as it should");
            }
        }
        let accepted = tokio::select! {
            _ = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                let id = shared.next.fetch_add(1, Ordering::Relaxed);
                let span = tracing::info_span!(
                    "connection",
                    id,
                    %peer,
                    sni = tracing::field::Empty,
                    instance = tracing::field::Empty
                );
                connections.spawn(Connection::new(Arc::clone(&shared)).run(client).instrument(span));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}
