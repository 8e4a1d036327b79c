//! Fuzz targets: one function for each parser that meets bytes of other machines or programs. Each takes any input, and panics
//! where the parser breaks a promise; the promises are more than that it does not panic itself.
//!
//! `make fuzz` runs them under libFuzzer (`src/main.rs`). The tests try every input of the corpus, which is what long runs have
//! found worth keeping, and variations of it. The targets `datagram` and `table` are in `mesh-tunnel` (`src/fuzz`): they need the
//! inside of its device.

mod device;
mod engines;
mod input;
mod ip;
mod merge;
mod mss;
mod packets;
mod split;
mod uapi;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub use device::device;
pub use ip::ip;
pub use merge::merge;
pub use mss::mss;
pub use split::split;
pub use uapi::uapi;

/// A fuzz target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target of this crate, by the name of its directory in `corpus`.
pub const TARGETS: [(&str, Target); 6] =
    [("device", device), ("ip", ip), ("merge", merge), ("mss", mss), ("split", split), ("uapi", uapi)];
