//! Fuzz targets that need the inside of the device. All others are in `mesh-fuzz` (`agent/tunnel/fuzz`), whose program runs these
//! too and which has their corpus.

mod datagram;
pub(crate) mod end;
#[path = "../fuzz/src/input.rs"]
mod input;
mod table;

#[cfg(test)]
#[path = "../fuzz/src/corpus.rs"]
mod corpus;
#[cfg(test)]
mod tests;

pub use datagram::datagram;
pub use table::table;

/// A fuzz target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target of this crate, by the name of its directory in the corpus.
pub const TARGETS: [(&str, Target); 2] = [("datagram", datagram), ("table", table)];
