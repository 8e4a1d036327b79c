//! The path that is always there: WireGuard's datagrams in TLS through dstack's gateway, which routes TCP by the server name in
//! the ClientHello and passes TLS through (`<instance id>-<port>s.<domain>`).
//!
//! A table (`stream/table.rs`) decides which stream leads to which peer, and when another is dialed; it is pure. A [`Stream`] carries datagrams
//! over anything that carries bytes, and knows nothing of WireGuard: what comes is given to the device, which says whose packets
//! it could authenticate ([`Stream::prove`]). What streams are up against is the gateway of dstack 0.5 and 0.6 (gateway.toml): no byte
//! for 10 minutes, a receiver that takes nothing for 5 s, and 5 hours of age each end a connection without a word.
//!
//! | | |
//! |---|---|
//! | which side dials | one, by a rule that both can apply ([`dials`]) |
//! | first bytes | 8 each way, the same for all; no name: WireGuard names the sender by what it alone can make |
//! | then | length (2 bytes, big endian) and datagram; length 0 is a keepalive |
//! | age | replaced at three quarters to the whole of [`Limits::redial_after`], new before old, nothing lost |
//! | too much to send | the oldest is dropped; nothing waits for room |
//! | sending | as the host has it, but never paced by BBR: CUBIC instead, where the host lets us choose |
//! | reading | never waits for anything but bytes: the device must not block |
//! | gateway away | one dial in half a second to a second, for all peers behind it, and one reason; all others follow when it is there |
//! | gateway silent | one peer behind it is asked after 2 s; nothing from any for 3.5 s: one dial, and all of them are asked |
//! | only dialed | a node that has no stream left, or hears nothing by any, dials itself to know whether its gateway is there |
//! | peer away | dialed again after ¼ s, later each time, at most 16 s; at once when this host's network changed |
//! | streams on which no peer is proved | 64 at most; those without a hello make room first; 5 s for TLS and hello (8 s at the side that dials), 10 s and 256 datagrams for a proof |
//! | another stream to a peer that dials | takes over once the peer has answered on it: a packet alone may have been caught elsewhere |

mod certificate;
mod error;
mod event;
mod handle;
mod network;
mod place;
mod proxy;
mod resolve;

pub(crate) mod carry;
pub(crate) mod dial;
mod frame;
mod queue;
pub(crate) mod table;
pub mod tls;

use std::time::Duration;

pub(crate) use self::resolve::resolve;
pub use self::{
    certificate::{BadCertificate, Certificate},
    error::StreamError,
    event::StreamEvent,
    frame::{Datagrams, MAX_DATAGRAM},
    handle::{Carried, Stream, StreamId},
    network::{Network, Tcp},
    place::{BadDomain, Domain, Place},
    proxy::ProxyVersion,
    table::dials,
};

/// The port at which agents listen for streams by default.
pub const DEFAULT_PORT: u16 = 51822;

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
    /// TLS and hello take this long at most, at the side that is dialed.
    pub hello: Duration,
    /// The same at the side that dials. A gateway waits 5 s for what is behind it before it closes the connection (gateway.toml,
    /// `timeouts.connect`): that answer, which says more than silence, has to come first.
    pub dial: Duration,
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
            dial: Duration::from_secs(8),
            proof: Duration::from_secs(10),
            queue: 4 << 20,
            queue_age: Duration::from_millis(100),
        }
    }
}
