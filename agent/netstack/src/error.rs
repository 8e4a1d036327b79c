//! Why a connection or port could not be had.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Why there is no connection, or no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// This node is no member yet, or not any more.
    #[error("this node has no mesh address yet: it is no active member (see `meshctl status`)")]
    NoAddress,
    /// Nothing but the mesh is reached.
    #[error("{0} is outside the mesh network: only addresses of peers are reached")]
    OutsideMesh(Ipv4Addr),
    /// The device carries nothing to itself.
    #[error("{0} is this node's own mesh address: connect to the program's local address instead")]
    OwnAddress(Ipv4Addr),
    /// [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS), those included that are being closed.
    #[error("there are too many connections at once ({0}): close some, or use them again")]
    TooMany(usize),
    /// Nothing listens there.
    #[error("{0} refused the connection: nothing listens at that port, or it is not exposed there")]
    Refused(SocketAddrV4),
    /// No answer within the time for it.
    #[error("{0} did not answer: is it a member, and running?")]
    TimedOut(SocketAddrV4),
    /// Another listener or UDP port of this process has it.
    #[error("port {0} of the mesh address is in use already")]
    PortTaken(u16),
    /// The stack has ended.
    #[error("the network in this process has ended")]
    Stopped,
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        let kind = match error {
            NetError::NoAddress => io::ErrorKind::NetworkDown,
            NetError::OutsideMesh(_) | NetError::OwnAddress(_) => io::ErrorKind::NetworkUnreachable,
            NetError::TooMany(_) => io::ErrorKind::QuotaExceeded,
            NetError::Refused(_) => io::ErrorKind::ConnectionRefused,
            NetError::TimedOut(_) => io::ErrorKind::TimedOut,
            NetError::PortTaken(_) => io::ErrorKind::AddrInUse,
            NetError::Stopped => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}
