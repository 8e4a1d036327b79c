//! The server in front of applications: the ports, and who is let in to a handshake.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};

use crate::{
    admission::{Connections, Handshakes},
    connection::{Accepted, Gate},
    counts::Counts,
    identity::Identity,
    limits::Limits,
    members::Members,
    rule::FrontRule,
};

/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;

/// The fronts of one node, bound but not served yet.
#[derive(Debug)]
pub struct Front {
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    rule: FrontRule,
    listener: TcpListener,
    counts: Arc<Counts>,
}

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen at {} for `--front {rule}`: {source}\nhint: is another program at this port? ports below 1024 need CAP_NET_BIND_SERVICE",
    rule.listen()
)]
pub struct BindError {
    rule: FrontRule,
    source: io::Error,
}

impl Front {
    /// Binds the ports of these rules. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn bind(rules: &[FrontRule]) -> Result<Self, BindError> {
        let bind = |rule: &FrontRule| match listen_at(rule.listen()) {
            Ok(listener) => Ok(Port { rule: rule.clone(), listener, counts: Arc::default() }),
            Err(source) => Err(BindError { rule: rule.clone(), source }),
        };
        rules.iter().map(bind).collect::<Result<_, _>>().map(|ports| Self { ports })
    }

    /// What each of them does, live, in the order of the rules.
    #[must_use]
    pub fn counts(&self) -> Vec<(FrontRule, Arc<Counts>)> {
        self.ports.iter().map(|port| (port.rule.clone(), Arc::clone(&port.counts))).collect()
    }

    /// Where connections are taken, in the order of the rules.
    ///
    /// # Errors
    /// The system's.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.ports.iter().map(|port| port.listener.local_addr()).collect()
    }

    /// Serves for ever; dropped, it ends every connection.
    ///
    /// # Errors
    /// When TLS does not take the identity, or a task of it failed.
    pub async fn serve(
        self,
        identity: &Identity,
        members: watch::Receiver<Arc<Members>>,
        limits: Limits,
    ) -> io::Result<Infallible> {
        let gate = Gate::new(identity, members, limits, Connections::new(&limits)).map_err(io::Error::other)?;
        let gate = Arc::new(gate);
        let mut ports = JoinSet::new();
        for port in self.ports {
            ports.spawn(port.serve(Arc::clone(&gate), limits));
        }
        match ports.join_next().await {
            Some(Ok(never)) => match never {},
            Some(Err(error)) => Err(io::Error::other(error)),
            None => std::future::pending().await,
        }
    }
}

impl Port {
    async fn serve(self, gate: Arc<Gate>, limits: Limits) -> Infallible {
        let mut handshakes = Handshakes::new(&limits);
        let mut connections = JoinSet::new();
        loop {
            match self.listener.accept().await {
                Ok((tcp, _)) => {
                    let gives_way = handshakes.enter();
                    let accepted =
                        Accepted { tcp, target: self.rule.target().clone(), counts: Arc::clone(&self.counts) };
                    connections.spawn(Arc::clone(&gate).pass(accepted, gives_way));
                }
                Err(error) => {
                    tracing::warn!(front = %self.rule, %error, "cannot accept connections for a moment");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            // What has ended is forgotten; what failed by a panic has been said by the panic.
            while connections.try_join_next().is_some() {}
        }
    }
}

/// A listener that takes IPv4 at an IPv6 address of no host, and whose port can be had again at once after a restart.
fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let everywhere_in_v4 = SocketAddr::from(([0; 4], address.port()));
    match bind(address) {
        // A kernel without IPv6.
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => bind(everywhere_in_v4),
        bound => bound,
    }
}
