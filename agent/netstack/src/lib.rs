//! TCP and UDP in this process, over the userspace WireGuard device in place of an interface: for a node without `/dev/net/tun`,
//! NET_ADMIN or root.
//!
//! smoltcp is the TCP/IP stack. `Stack` holds it together with what it lacks (connections on demand for listeners, bounds,
//! deadlines) and has neither clock nor thread, so that tests run it on virtual time. One thread serves it between the device and the
//! tasks ([`Netstack`]), which use it by [`Stream`], [`Listener`] and [`UdpPort`].
//!
//! Only the node's own mesh address is ever a source, and only addresses of the mesh network are destinations. What comes in
//! reaches nothing but the ports that are listened at; ICMP echoes are answered.

mod buffers;
mod error;
mod headers;
mod link;
mod listener;
mod net;
mod stack;
mod stream;
mod udp;

pub use error::NetError;
pub use listener::Listener;
pub use net::Netstack;
pub use stack::{MAX_CONNECTIONS, MAX_CONNECTIONS_OF_PEER};
pub use stream::Stream;
pub use udp::UdpPort;
