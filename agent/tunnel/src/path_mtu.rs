//! How large a packet the UDP path to a peer carries: asked inside the tunnel, because what a router says outside anyone can forge
//! (RFC 8899, section 1.1).
//!
//! A probe is a data message of the size in question, the acknowledgement another. What is in them begins with a zero where an IP
//! packet has its version, so that other implementations of WireGuard drop it as they drop any packet that they do not know.

mod message;
mod search;

pub(crate) use message::{Message, Question};
pub(crate) use search::{BASE, Probes, Search};
