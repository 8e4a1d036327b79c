//! Finding a direct path to a peer: the messages and each rule alone, then two nodes behind simulated NATs.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod nat;
mod network;

mod found;
mod hostile;
mod message;
mod reflexive;
mod rules;
mod stun;

use std::net::{Ipv4Addr, SocketAddr};

use mesh_core::network::MeshNetwork;

/// 10.0.1.0/24.
fn mesh() -> MeshNetwork {
    MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap()
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
