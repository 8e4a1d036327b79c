//! What the nodes are called, and where they are.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_core::{
    agent::{GatewayPlace, PathPeer, PathPeers},
    id::{InstanceId, TokenId, WireguardKey},
};

const DOMAIN: &str = "gw.test";

pub(crate) fn token(n: u8) -> TokenId {
    TokenId::new(n.into()).unwrap()
}

pub(crate) const fn key(n: u8) -> WireguardKey {
    WireguardKey([n; 32])
}

pub(crate) const fn mesh_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, n)
}

/// Where the node is seen by UDP.
pub(crate) fn udp(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 51821))
}

/// What the agent of a node says of its peers.
pub(crate) fn peers(own: u8, all: &[u8]) -> PathPeers {
    let place = |n: u8| GatewayPlace {
        instance: InstanceId([n; 20]),
        port: 51822.try_into().unwrap(),
        domain: DOMAIN.to_owned(),
    };
    let peer =
        |n: &u8| (token(*n), PathPeer { public_key: key(*n), address: mesh_address(*n), place: Some(place(*n)) });
    let others = all.iter().filter(|n| **n != own).map(peer).collect();
    PathPeers { own: token(own), own_address: mesh_address(own), own_place: Some(place(own)), peers: others }
}
