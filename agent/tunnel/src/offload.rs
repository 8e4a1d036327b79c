//! Many packets at once over the interface: what one read gives is cut into packets ([`Outgoing`]), and packets that
//! belong together are handed over in one write ([`Merge`]).
//!
//! The kernel and the device describe such superpackets to each other as a virtual network card does: a header in front
//! ([`VnetHeader`]) says how to cut, and which checksum is still to be completed. Nothing here makes system calls or
//! allocates for a packet, and every byte is taken to be hostile: it comes from programs of this machine or from peers.

mod checksum;
mod headers;
mod merge;
mod mss;
mod split;
mod vnet;

#[cfg(test)]
mod tests;

pub(crate) use checksum::Sum;
pub(crate) use merge::Merge;
pub(crate) use mss::clamp_mss;
#[cfg(test)]
pub(crate) use split::Malformed;
pub(crate) use split::Outgoing;
pub(crate) use vnet::{VNET_LEN, VnetHeader};

/// Datagrams that one message may be cut into (`UDP_MAX_SEGMENTS` of Linux before 6.9; 128 since).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// Bytes that one message may have: with the headers of IP, UDP and the link it stays below the 65,536 bytes that a link
/// takes whole (`gso_max_size`); longer ones, up to 65,487, would be cut before the link instead of by it.
pub(crate) const MAX_RUN: usize = 65_400;

/// The Internet checksum of `bytes`, for measuring.
#[cfg(feature = "bench")]
pub(crate) fn checksum_of(bytes: &[u8]) -> [u8; 2] {
    checksum::Sum::of(bytes).checksum()
}
