//! The paths that datagrams take to a peer, and how the device reports by which of them a packet came.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::key::PublicKey;

/// A stream that carries whole datagrams to a peer, or drops them. The device calls it while it holds what others wait for: no
/// call may block, nor call the device.
pub trait Carrier: Send + Sync + fmt::Debug + 'static {
    /// Takes datagrams that lie behind each other, each `segment` bytes long but the last, which may be shorter. False if the
    /// stream is over.
    #[must_use = "a stream that is over takes nothing"]
    fn send(&self, datagrams: &[u8], segment: usize) -> bool;

    /// Takes one datagram on which it hangs what is thought of the stream: a handshake's, a keepalive, or one of
    /// [`crate::DeviceHandle::send_inner`]. A stream that has more than it can carry lets it go first, and drops it last.
    #[must_use = "a stream that is over takes nothing"]
    fn send_first(&self, datagram: &[u8]) -> bool {
        self.send(datagram, datagram.len())
    }
}

/// Which side made a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOrigin {
    /// This one, to reach a peer.
    Dialed,
    /// The other, which may be anybody until a peer proves itself.
    Accepted,
}

/// How a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// To the peer's endpoint.
    Udp,
    /// By the peer's stream ([`crate::DeviceHandle::set_stream`]).
    Stream,
}

/// What shows that a peer is at the other end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// An authentic message of the peer's came by it that is no replay. An attacker that caught it elsewhere may have brought it, so
    /// that nothing is said of whether the stream leads to the peer.
    Data,
    /// The peer's answer came by it to an initiation that went by it and nowhere else: the stream carries both ways.
    RoundTrip,
}

/// The paths that datagrams to a peer take, where they are there; where both are false, none. Where packets take both, the endpoint
/// gets none before a round trip by it was proved, because it may be another host's; handshakes go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// To its UDP endpoint.
    pub udp: bool,
    /// By its stream.
    pub stream: bool,
}

impl Default for Route {
    /// Whatever is there.
    fn default() -> Self {
        Self { udp: true, stream: true }
    }
}

/// What takes the device's reports about its paths. Called on the device's threads and inside [`crate::StreamInbound::receive`],
/// while the device holds what others wait for: no call may block, nor call the device.
pub trait Watcher: Send + Sync + 'static {
    /// The peer sent this inner packet (UDP over IPv4, whole, from port [`Watch::tap`] to the same port) by that path. Its source
    /// address is one of the peer's; nothing else of it was looked at. The interface does not get it.
    fn probe(&self, peer: PublicKey, path: Path, packet: &[u8]);

    /// Packets of applications went to the peer. Reported at most once in 50 ms for each peer. Keepalives, handshakes and
    /// [`crate::DeviceHandle::send_inner`] do not count.
    fn sent(&self, peer: PublicKey);

    /// Packets of applications came from the peer by that path, and were let in. Reported at most once in 50 ms for each peer and path.
    fn received(&self, peer: PublicKey, path: Path);

    /// The peer's UDP endpoint is this now: configured, learned, or proved after [`crate::DeviceHandle::try_endpoint`].
    fn endpoint(&self, peer: PublicKey, endpoint: SocketAddr);

    /// The largest inner packet that goes to the peer by UDP is this now, in bytes: what its path was found to carry, or the
    /// interface's MTU.
    fn path_mtu(&self, peer: PublicKey, mtu: u16);

    /// A datagram came to the UDP sockets that is no message of WireGuard and may be one of STUN: it has the magic cookie
    /// (RFC 8489, section 5). Anybody may have sent it.
    fn stun(&self, from: SocketAddr, datagram: &[u8]);
}

/// A watcher, and the port whose packets are for it alone.
#[derive(Clone)]
pub struct Watch {
    /// UDP port of packets that do not come from the interface and do not go there: those of the interface that go from it to the
    /// same port are dropped, so that no program on this node speaks for its agent.
    pub tap: u16,
    /// What takes the reports.
    pub watcher: Arc<dyn Watcher>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("tap", &self.tap).finish_non_exhaustive()
    }
}
