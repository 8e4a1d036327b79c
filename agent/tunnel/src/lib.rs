//! A userspace WireGuard device: its own TUN and UDP input and output around boringtun's protocol core, configured by
//! typed calls ([`Device::apply`]) or, like any other implementation, by `wg` over the UAPI socket.
//!
//! Three threads carry the device. *Outbound* reads IP packets from the TUN and sends them as datagrams, *inbound* does
//! the reverse, *control* owns the configuration and every timer. A fourth serves the UAPI socket where it is asked for.
//! The crate knows nothing of who is a member and sets no addresses or routes: that is the agent's.
//!
//! Sources: "WireGuard: Next Generation Kernel Network Tunnel" (the *paper* below, with its section) and the
//! cross-platform UAPI, <https://www.wireguard.com/xplatform/>.

mod config;
mod control;
mod device;
mod error;
mod key;

mod allowed_ips;
mod flood;
mod inbound;
mod links;
mod noise;
#[allow(dead_code, unused_imports, reason = "used by the data path from the next commit on")]
mod offload;
mod outbound;
mod packet;
mod peer;
mod staged;
mod table;
mod timers;

#[cfg(test)]
mod namespace;
#[allow(dead_code, reason = "used by the data path from the next commit on")]
mod netlink;
mod standalone;
mod sys;
#[allow(dead_code, reason = "used by the data path from the next commit on")]
mod tun;
mod uapi;
#[allow(dead_code, unused_imports, reason = "used by the data path from the next commit on")]
mod udp;
#[allow(dead_code, reason = "used by the data path from the next commit on")]
mod underlay;
mod wiped;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;

pub use config::{DEFAULT_MTU, DeviceOptions, DeviceState, DeviceUpdate, Drops, Offloads, PeerState, PeerUpdate};
pub use device::Device;
pub use error::Error;
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use noise::PROTOCOL_LOG_TARGET;
pub use standalone::run_standalone;
pub use underlay::derived_mtu;
