//! Pure core of the mesh: a contract snapshot becomes verified peers, a desired mesh, and the changes that lead there.
//!
//! Nothing here does I/O, reads a clock, draws a random number or holds a private key: inputs, time and observations are
//! arguments, and everything to be done comes back as data. The manifest (no runtime) and `clippy.toml` (no clock) hold
//! that line. The one loop that drives it is `run.rs` of the `p2p-agent` crate.

pub mod agent;
pub mod ascending;
pub mod behind;
pub mod desired;
pub mod dev_url;
pub mod development;
pub mod diff;
pub mod freshness;
pub mod gate;
pub mod gateway_access;
pub mod history;
pub mod id;
pub mod key_claim;
pub mod listen_port;
pub mod member;
pub mod membership;
pub mod network;
pub mod news;
pub mod observed;
pub mod path;
pub mod place;
pub mod proof;
pub mod quorum;
pub mod registration;
pub mod registry;
mod signature;
pub mod status;
pub mod text;
mod time;
pub mod version;
pub mod wei;

pub use signature::InvalidSignature;
pub use time::{rfc3339, unix_seconds};
