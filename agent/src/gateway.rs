//! The road that is always there: WireGuard's datagrams in TLS through dstack's gateway, which routes TCP by the server name in
//! the ClientHello and passes TLS through (`<instance id>-<port>s.<domain>`).
//!
//! A [`Transport`] keeps one [`Stream`] to every peer it was told of and knows nothing of WireGuard: datagrams that come go to
//! the [`Device`], which says whose packets it could authenticate ([`Stream::prove`]) and is told by which stream a peer
//! is reached ([`Device::route`]). What it is up against is the gateway of dstack 0.5 and 0.6 (gateway.toml): no byte for
//! 10 minutes, a receiver that takes nothing for 5 s, and 5 hours of age each end a connection without a word.
//!
//! | | |
//! |---|---|
//! | who calls | one side, by a rule both can tell ([`dials`]) |
//! | first bytes | 8 each way, the same for everybody; no name: WireGuard names the sender by what only he can make |
//! | then | length (2 bytes, big endian) and datagram; length 0 is a keepalive |
//! | age | replaced at three quarters to the whole of [`Limits::redial_after`], new before old, nothing lost |
//! | too much to send | the oldest is dropped; nothing waits for room |
//! | sending | as the machine has it, but never paced by BBR: CUBIC instead, where the machine lets us choose |
//! | reading | never waits for anything but bytes: the device must not block |
//! | gateway away | one call in half a second to a second, for all peers behind it; all others follow when it is there |
//! | peer away | called again after ¼ s, later each time, at most 16 s; at once when [`Transport::hurry`] says so |
//! | streams of nobody | 64 at most; whoever said no hello makes room first; 5 s for TLS and hello, 10 s and 256 datagrams for a proof |
//! | another stream to a peer that calls | takes over once the peer has answered on it: a packet alone may have been caught elsewhere |

mod certificate;
mod name;
mod trouble;

mod dial;
mod frame;
mod queue;
mod run;
mod stream;
mod table;
mod tls;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::id::TokenId;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub use certificate::{BadCertificate, Certificate};
pub use frame::{Datagrams, MAX_DATAGRAM};
pub(crate) use name::GATEWAY_PORT;
pub use name::{BadDomain, Domain, Place};
use run::{Command, Shell};
pub use stream::{Carried, Proof, Stream, StreamId};
pub use table::{PeerReport, dials};
pub use trouble::Trouble;

/// The TLS of streams without the streams, with which they are compared.
#[doc(hidden)]
pub mod bench {
    pub use super::tls::{client, server};
}

/// The port at which agents listen for streams, unless told otherwise.
pub const DEFAULT_PORT: u16 = 51822;

/// What the transport needs of the WireGuard device. Called from the transport's tasks: no call may block or wait, and none is
/// made while another of the transport's calls into the device is on the stack.
pub trait Device: Send + Sync + 'static {
    /// Who reads what comes by this stream. Asked once for each, before anything came.
    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn Inbound>;

    /// Send the peer something by this stream, and by no other, that it can authenticate and has to answer: a handshake initiation,
    /// and where there is a session an empty packet of it. Until the peer has got it, the stream is not used by the peer.
    fn greet(&self, peer: TokenId, stream: &Arc<Stream>);

    /// From now on the peer is reached by this stream; by none if `None`, for that reason. Streams follow each other without a
    /// `None` between them where one replaces another.
    fn route(&self, peer: TokenId, stream: Option<&Arc<Stream>>, trouble: Option<&Trouble>);
}

/// The reading end of one stream in the device. It may hold the stream, and is gone with the stream's task.
pub trait Inbound: Send + 'static {
    /// Datagrams came, from anybody: for each that is authenticated and no replay, tell [`Stream::prove`] whose it is and what that
    /// proves. As for all of [`Device`], no call may block or wait.
    fn receive(&mut self, datagrams: &mut Datagrams<'_>);
}

/// Times and sizes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A stream is replaced at this age at the latest (`--gateway-redial-after`); the gateway ends it at 5 h.
    pub redial_after: Duration,
    /// Something is written at least this often; the gateway ends a stream that is quiet for 10 min.
    pub keepalive: Duration,
    /// A stream on which nothing came for so long is dead.
    pub silence: Duration,
    /// So is one that takes nothing for so long, or acknowledges nothing.
    pub stall: Duration,
    /// TLS and hello take this long at most.
    pub hello: Duration,
    /// A stream that the other side made is proved within this time, or closed.
    pub proof: Duration,
    /// Bytes that wait for a stream at most; 64 KiB at least.
    pub queue: usize,
    /// What waits for a stream for so long is too late: what the tunnel carries has asked for it again.
    pub queue_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            redial_after: Duration::from_secs(4 * 3600 + 1800),
            keepalive: Duration::from_secs(25),
            silence: Duration::from_secs(80),
            stall: Duration::from_secs(10),
            hello: Duration::from_secs(5),
            proof: Duration::from_secs(10),
            queue: 4 << 20,
            queue_age: Duration::from_millis(100),
        }
    }
}

/// How a transport is set up.
#[derive(Debug)]
pub struct Config {
    /// Where to listen, and the certificate to show; `None` to call only.
    pub listen: Option<(SocketAddr, Certificate)>,
    /// Where every gateway is, instead of what DNS says of its names.
    pub gateway: Option<SocketAddr>,
    /// Times and sizes.
    pub limits: Limits,
}

/// The transport cannot be had.
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

/// How the transport is.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every peer.
    pub peers: BTreeMap<TokenId, PeerReport>,
    /// Streams that are open or being made, those of nobody included.
    pub streams: usize,
}

/// The streams of this node. Dropped, it drops them all; [`Transport::stop`] ends them in order.
#[derive(Debug)]
pub struct Transport {
    address: Option<SocketAddr>,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Transport {
    /// Listens, if it is to, and has no peers yet. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, device: Arc<dyn Device>) -> Result<Self, StartError> {
        let seed = getrandom::u64().map_err(StartError::Random)?;
        let (listener, server) = match config.listen {
            None => (None, None),
            Some((address, certificate)) => {
                let server = tls::server(certificate)?;
                let failed = |source| StartError::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                (Some(listener), Some(server))
            }
        };
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (commands, inbox) = mpsc::unbounded_channel();
        let shell = Shell::new(config.gateway, config.limits, tls::client()?, server, seed, device);
        let task = tokio::spawn(shell.run(listener, inbox));
        Ok(Self { address, commands, task })
    }

    /// Where it listens, with the port it got.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// These are the peers, by token: those with a place are called there (see [`dials`]), the others call. Whoever is not among
    /// them loses its streams; for whoever stays as it is nothing changes.
    pub fn set_peers(&self, peers: BTreeMap<TokenId, Option<Place>>) {
        self.tell(Command::SetPeers(peers));
    }

    /// The machine's network changed: streams that this side made are made anew, the old ones stay until then. Not more than once
    /// in a second.
    pub fn hurry(&self) {
        self.tell(Command::Hurry);
    }

    /// The stream to this peer is open and carries nothing: make another, if it is this side that makes them.
    pub fn redial(&self, peer: TokenId) {
        self.tell(Command::Redial(peer));
    }

    /// How things are.
    pub async fn report(&self) -> Report {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Report(reply));
        answer.await.unwrap_or_default()
    }

    /// Sends what waits, ends every stream in order, and closes the port; two seconds at most. Called once; afterwards there are no
    /// streams, and nothing else that is asked of it is done.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        self.tell(Command::Stop(done));
        if ended.await.is_err() {
            tracing::error!("the streams did not end as they should");
        }
    }

    fn tell(&self, command: Command) {
        // It ends with this alone.
        drop(self.commands.send(command));
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.task.abort();
    }
}
