//! Why a stream could not be had, or is no more.

use std::time::Duration;

use mesh_core::status::Reason;

use super::ProxyVersion;

/// Why there is no stream, or no longer this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The gateway's name has no address.
    #[error("the gateway's name cannot be resolved: {0}")]
    Dns(String),
    /// No TCP connection to the gateway.
    #[error("the gateway cannot be connected to: {0}")]
    Unreachable(String),
    /// The gateway closed the connection before the other agent said anything. It never says why.
    #[error(
        "the gateway closed the connection: it does not know the instance, cannot reach it, may not connect to that port, or has too many connections"
    )]
    Refused,
    /// No TLS.
    #[error("no TLS with what is behind the gateway: {0}")]
    Tls(String),
    /// The gateway said first who dialed.
    #[error("a PROXY protocol header (version {0}) came where TLS should begin: the gateway is told to send it (`pp`)")]
    ProxyHeader(ProxyVersion),
    /// TLS, but not with a mesh agent.
    #[error("what is behind the gateway is no mesh agent of this version")]
    NoHello,
    /// Something did not come in time.
    #[error("{what} did not come within {} s", .after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// Nothing came for so long, not even a keepalive.
    #[error("nothing came for {} s, not even a keepalive", .0.as_secs())]
    Silent(Duration),
    /// What was written was not taken.
    #[error("nothing was taken for {} s", .0.as_secs())]
    Stalled(Duration),
    /// No peer was authenticated on it.
    #[error("no peer proved itself on it")]
    Unproved,
    /// It broke.
    #[error("broken: {0}")]
    Broken(String),
    /// The other side closed it in order.
    #[error("closed by the other side")]
    Closed,
    /// The gateway was away and works again; the peer dials, and has not yet.
    #[error("the gateway works, and the peer has not dialed yet")]
    NotDialed,
    /// Too many others wanted its place.
    #[error("it had to make room for newer ones")]
    Crowded,
    /// Another stream to the same peer took over.
    #[error("another stream took over")]
    Replaced,
    /// Who is at its other end is no peer, or another than was called.
    #[error("what is at its other end is not the peer it is for")]
    Stranger,
    /// This side ended it.
    #[error("closed by this side")]
    Stopped,
}

impl StreamError {
    /// Its code in status, logs and metrics, as far as the closed list has one.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Dns(_) => Some(Reason::GatewayDns),
            // The gateway looks the same from outside whichever of these it was.
            Self::Refused => Some(Reason::GatewayPortPolicy),
            Self::Unreachable(_) => Some(Reason::GatewayUnreachable),
            Self::Tls(_) | Self::ProxyHeader(_) | Self::NoHello => Some(Reason::GatewayTls),
            Self::Silent(_) | Self::Stalled(_) | Self::TimedOut { .. } => Some(Reason::GatewaySilent),
            Self::Broken(_) => Some(Reason::GatewayBroken),
            Self::Crowded => Some(Reason::GatewayLimit),
            Self::Unproved | Self::Stranger => Some(Reason::HandshakeRefused),
            Self::Closed | Self::NotDialed | Self::Replaced | Self::Stopped => None,
        }
    }
}
