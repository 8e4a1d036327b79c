//! Fuzz targets: one function for each parser that meets bytes of other machines or programs. Each takes any input, and panics
//! where the parser breaks a promise; the promises are more than that it does not panic itself.
//!
//! `make fuzz` runs them under libFuzzer (`src/main.rs`). The tests try every input of the corpus, which is what long runs have
//! found worth keeping, and variations of it.

mod aead;
mod counterpart;
mod datagram;
mod device;
mod engines;
mod input;
mod ip;
mod merge;
mod mss;
mod news;
mod packets;
mod pair;
mod split;
mod table;
mod uapi;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub use aead::aead;
pub use datagram::datagram;
pub use device::device;
pub use ip::ip;
pub use merge::merge;
pub use mss::mss;
pub use news::news;
pub use split::split;
pub use table::table;
pub use uapi::uapi;

/// A fuzz target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target of this crate, by the name of its directory in `corpus`.
pub const TARGETS: [(&str, Target); 10] = [
    ("aead", aead),
    ("datagram", datagram),
    ("device", device),
    ("ip", ip),
    ("merge", merge),
    ("mss", mss),
    ("news", news),
    ("split", split),
    ("table", table),
    ("uapi", uapi),
];
