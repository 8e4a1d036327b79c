//! The paths to the peers: streams through the gateway and direct UDP, how direct UDP is found, and which of them packets take.
//!
//! Everything is decided by one machine without I/O, [`Paths`]. The [`shell`] does what it says: it has clock, sockets, TLS and the
//! device. Nothing here knows the chain, the guest agent or who may be a member: the agent names the peers, and gets
//! reports on their paths.

mod machine;
pub mod shell;

pub mod path;
pub mod punch;
pub mod stream;
pub mod stun;

pub mod rng;

pub use machine::{Action, Config, DEFAULT_ROUTES, DeviceEvents, Input, Paths, Sources};
