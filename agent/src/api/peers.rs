//! `GET /v1/peers`: who is in the mesh and can be talked to, the least an application needs.

use std::net::Ipv4Addr;

use mesh_core::{
    id::{TokenId, WireguardKey},
    status::{MembershipState, PeerState, Status},
};
use serde::{Deserialize, Serialize};

/// The value of [`PeersView::schema`].
const SCHEMA: &str = "p2p-agent.peers/v1";

/// The mesh as applications see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersView {
    /// Always `p2p-agent.peers/v1`.
    pub schema: String,
    /// This node.
    #[serde(rename = "self")]
    pub own: SelfView,
    /// The others, ascending by token.
    pub peers: Vec<PeerView>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfView {
    /// Its token, once known.
    pub token_id: Option<TokenId>,
    /// Its name.
    pub name: Option<String>,
    /// Its mesh address.
    pub address: Option<Ipv4Addr>,
    /// Its WireGuard public key.
    pub public_key: Option<WireguardKey>,
    /// Where it stands.
    pub state: MembershipState,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its token.
    pub token_id: TokenId,
    /// Its name.
    pub name: String,
    /// Its mesh address.
    pub address: Ipv4Addr,
    /// Its WireGuard public key.
    pub public_key: Option<WireguardKey>,
    /// Whether it answers.
    pub state: PeerState,
}

impl Default for PeersView {
    fn default() -> Self {
        let own =
            SelfView { token_id: None, name: None, address: None, public_key: None, state: MembershipState::Unknown };
        Self { schema: SCHEMA.to_owned(), own, peers: Vec::new() }
    }
}

impl PeersView {
    /// The part of a status that applications need.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let own = SelfView {
            token_id: status.own.token_id,
            name: status.own.name.clone(),
            address: status.own.address,
            public_key: Some(status.own.public_key),
            state: status.own.membership,
        };
        let peers = status.peers.iter().map(|peer| PeerView {
            token_id: peer.token_id,
            name: peer.name.clone(),
            address: peer.address,
            public_key: Some(peer.public_key),
            state: peer.state,
        });
        Self { schema: SCHEMA.to_owned(), own, peers: peers.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_fixed() {
        let view = PeersView {
            peers: vec![PeerView {
                token_id: TokenId::new(3).unwrap(),
                name: "node-3".to_owned(),
                address: Ipv4Addr::new(10, 0, 1, 3),
                public_key: Some(WireguardKey([0; 32])),
                state: PeerState::Up,
            }],
            ..PeersView::default()
        };
        let expected = serde_json::json!({
            "schema": "p2p-agent.peers/v1",
            "self": { "token_id": null, "name": null, "address": null, "public_key": null, "state": "unknown" },
            "peers": [{
                "token_id": 3, "name": "node-3", "address": "10.0.1.3",
                "public_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "state": "up",
            }],
        });
        assert_eq!(serde_json::to_value(&view).unwrap(), expected);
    }
}
