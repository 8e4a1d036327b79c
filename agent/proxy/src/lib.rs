//! How applications on this machine reach members of the mesh where the kernel has no interface that leads there.
//!
//! One listener speaks SOCKS5 and HTTP, told apart by the first byte; a [`Forward`] leads every connection to one fixed target. Who is a
//! member and how it is reached is not decided here: [`serve()`] asks a [`Dial`], which the userspace network stack and the
//! mutually authenticated TLS of `--mode tls` implement.
//!
//! Every program that may connect may use the mesh, as with an interface of the kernel. So only loopback addresses and Unix sockets are taken
//! ([`ProxyListen`]). A web page in a browser of this machine gets no further than it would with an interface: no name is looked up here, so
//! none can be rebound; requests are taken in the form that browsers send to a proxy they were told to use, and no other; and a request
//! with an `Origin` outside of the mesh is refused.

mod target;
pub use target::{Node, ParseTargetError, Target};

mod dial;
pub use dial::{Dial, DialError, Duplex, Stream};

mod listen;
pub use listen::{Forward, ParseListenError, ProxyListen};

mod socket;
pub use socket::{BindError, Listener, SocketMode};

mod counters;
pub use counters::{Counters, CountersSeen, Refusal};

mod serve;
pub use serve::{Limits, serve};

mod http;
mod relay;
mod socks;
