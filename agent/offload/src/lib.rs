//! Many packets at once over a TUN interface: one read gives a superpacket, which is cut into packets that fit the tunnel
//! ([`Outgoing`]), and packets that arrived together are joined and written at once ([`Merge`]). Beside them, the little that a
//! tunnel reads and changes in single packets ([`packet`], [`clamp_mss`]).
//!
//! The kernel and the device describe a superpacket to each other as a virtual network card does: a [`VnetHeader`] in front says
//! how to cut it, and which checksum is still to be completed. Cutting and joining are exact inverses.
//!
//! Nothing here makes a system call, and nothing is allocated for a packet. All bytes are hostile: they come from programs of this
//! machine or from peers, and what is not valid is refused or passed on unchanged, without a panic.

pub mod packet;

mod checksum;
mod fragments;
mod headers;
mod merge;
mod mss;
mod split;
mod too_big;
mod vnet;

#[cfg(test)]
mod tests;

pub use merge::Merge;
pub use mss::clamp_mss;
pub use split::{Malformed, Outgoing};
pub use vnet::{Gso, GsoKind, PartialChecksum, VNET_LEN, VnetHeader};

/// Datagrams that one message may be cut into (`UDP_MAX_SEGMENTS` of Linux before 6.9; 128 since).
pub const MAX_SEGMENTS: usize = 64;

/// Bytes that one message may have: with the headers of IP, UDP and the link it stays below the 65,536 bytes that a link
/// takes whole (`gso_max_size`); longer ones, up to 65,487, would be cut before the link instead of by it.
pub const MAX_RUN: usize = 65_400;
