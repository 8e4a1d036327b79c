//! What a fuzzer throws bytes at: one function for each parser that meets bytes of strangers. Each takes any input and
//! panics where the parser breaks a promise, which is more than that it must not panic itself.
//!
//! They are built into the program `fuzz` (`make fuzz`) and into this crate's tests, which try every input of the corpus
//! (`agent/tunnel/fuzz/corpus`) and variations of it.

mod datagram;
mod input;
mod ip;
mod table;
mod uapi;

#[cfg(test)]
mod tests;

pub use datagram::datagram;
pub use ip::ip;
pub use table::table;
pub use uapi::uapi;

/// A fuzz target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name that its corpus and its program have.
pub const TARGETS: [(&str, Target); 4] = [("datagram", datagram), ("ip", ip), ("table", table), ("uapi", uapi)];
