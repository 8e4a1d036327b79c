//! A userspace WireGuard device: WireGuard's handshake and sessions between a TUN and UDP sockets, configured by typed
//! calls ([`Device::apply`]) or, like any other implementation, by `wg` over the UAPI socket.
//!
//! Pairs of threads carry the packets, one pair unless more are asked for: *outbound* reads them from the TUN and sends
//! them as datagrams, *inbound* does the reverse, both many at a time. *Handshakes* come in by a thread of their own, so that a flood
//! of them holds up no packet. *Control* owns the configuration and every timer, and
//! another thread serves the UAPI socket where it is asked for.
//! Peers know none of that: they return what is to be sent, and `transmit.rs` sends it. An [`Engine`] is the same device without
//! threads, on virtual time.
//!
//! The crate knows nothing of who is a member and sets no addresses or routes: that is the agent's.
//!
//! Sources: "WireGuard: Next Generation Kernel Network Tunnel" (the *paper* below, with its section) and the
//! cross-platform UAPI, <https://www.wireguard.com/xplatform/>.

mod clock;
mod config;
mod control;
mod counters;
mod device;
mod endpoint;
mod engine;
mod environment;
mod error;
mod handle;
mod key;
mod path;
mod path_mtu;

mod allowed_ips;
mod flood;
mod handshake_limiter;
mod handshakes;
mod inbound;
mod indices;
mod inner;
mod mtu;
mod noise;
mod outbound;
mod outgoing;
mod output;
mod packet_link;
mod peer;
mod receive;
mod schedule;
mod send_batch;
mod sessions;
mod staged;
mod stream;
mod stream_source;
mod table;
mod timer_queue;
mod timers;
mod transmit;

mod memory;
mod netlink;
mod secret;
mod standalone;
mod sys;
mod tun;
mod uapi;
mod udp;
mod underlay;
mod wiped;

pub use config::{
    DEFAULT_MTU, DeviceOptions, DeviceState, DeviceUpdate, Drops, Inside, Offloads, PeerState, PeerUpdate,
};
pub use device::Device;
pub use engine::{Engine, EngineEvent, EngineOptions, EngineTarget, EngineTransmit};
pub use error::Error;
pub use handle::DeviceHandle;
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use memory::keep_little_memory;
pub use packet_link::PacketLink;
pub use path::{Carrier, Path, Proof, Route, StreamOrigin, Watch, Watcher};
pub use secret::{Secret, leave_no_trace};
pub use standalone::run_standalone;
pub use stream::StreamInbound;
pub use uapi::UapiError;
pub use underlay::derived_mtu;
