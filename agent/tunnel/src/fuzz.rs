//! What a fuzzer throws bytes at: one function for each parser that meets bytes of strangers. Each takes any input and
//! panics where the parser breaks a promise, which is more than that it must not panic itself.
//!
//! They are built into the program `fuzz` (`make fuzz`) and into this crate's tests, which try every input of the corpus
//! (`agent/tunnel/fuzz/corpus`) and variations of it.

mod datagram;
pub(crate) mod end;
mod input;
mod ip;
mod merge;
mod mss;
mod packets;
mod split;
mod table;
mod uapi;

#[cfg(test)]
mod tests;

pub use datagram::datagram;
pub use ip::ip;
pub use merge::merge;
pub use mss::mss;
pub use split::split;
pub use table::table;
pub use uapi::uapi;

/// A fuzz target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name that its corpus has.
pub const TARGETS: [(&str, Target); 7] = [
    ("datagram", datagram),
    ("ip", ip),
    ("merge", merge),
    ("mss", mss),
    ("split", split),
    ("table", table),
    ("uapi", uapi),
];
