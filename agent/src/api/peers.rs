//! `GET /v1/peers`: the nodes of the mesh and how to reach them, the least an application needs.

use std::net::Ipv4Addr;

use mesh_core::{
    dev_url::{DevUrl, DevUrls},
    id::{TlsKey, TokenId, WireguardKey},
    status::{MembershipState, NodeKind, OtherPeer, PeerState, PeerStatus, Status},
};
use serde::{Deserialize, Serialize};

/// The value of [`PeersView::schema`].
const SCHEMA: &str = "p2p-agent.peers/v1";

/// The mesh as applications see it, members of both kinds. What cannot be used from here is `None`: an address where one of the two nodes
/// has no tunnel, a URL where the contract has none for that node. Which of them to use is decided here, so that every SDK and
/// application of a mixed cluster says the same: `connect_to`.
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
    /// What it is in the mesh, once its agent has started.
    pub kind: Option<NodeKind>,
    /// Its mesh address.
    pub address: Option<Ipv4Addr>,
    /// Where others reach its application.
    pub url: Option<String>,
    /// The best of both, as for [`PeerView::connect_to`].
    #[serde(default)]
    pub connect_to: Option<String>,
    /// The URL that its token's owner gave it, in a cluster with devMode.
    pub dev_url: Option<DevUrl>,
    /// Its WireGuard public key.
    pub public_key: Option<WireguardKey>,
    /// Its TLS key, by which others know it.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
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
    /// What it is in the mesh.
    pub kind: NodeKind,
    /// Its mesh address.
    pub address: Option<Ipv4Addr>,
    /// `https://<instance>-<port>s.<domain>`, where its application takes TLS behind the dstack gateway.
    pub url: Option<String>,
    /// The best of both from this node: the address, else the URL; `None` for one that cannot be reached from here.
    #[serde(default)]
    pub connect_to: Option<String>,
    /// The URL that its token's owner gave it, in a cluster with devMode.
    pub dev_url: Option<DevUrl>,
    /// Its WireGuard public key.
    pub public_key: Option<WireguardKey>,
    /// Its TLS key, by which it is known, where it registered one.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// Whether it answers; `None` for one that nothing is sent to.
    pub state: Option<PeerState>,
}

impl Default for PeersView {
    fn default() -> Self {
        let own = SelfView {
            token_id: None,
            name: None,
            kind: None,
            address: None,
            url: None,
            connect_to: None,
            dev_url: None,
            public_key: None,
            tls_key: None,
            state: MembershipState::Unknown,
        };
        Self { schema: SCHEMA.to_owned(), own, peers: Vec::new() }
    }
}

impl PeersView {
    /// The part of a status that applications need, with the development URLs as the contract was last accepted.
    #[must_use]
    pub fn of(status: &Status, dev_urls: Option<&DevUrls>) -> Self {
        let dev_url = |token: Option<TokenId>| dev_urls?.get(&token?).cloned();
        let own = SelfView {
            token_id: status.own.token_id,
            name: status.own.name.clone(),
            kind: Some(status.own.kind),
            address: status.own.address,
            url: status.own.url.clone(),
            connect_to: best(status.own.address, status.own.url.as_deref()),
            dev_url: dev_url(status.own.token_id),
            public_key: status.own.public_key,
            tls_key: status.own.tls_key,
            state: status.own.membership,
        };
        let tunnelled = status.peers.iter().map(|peer| PeerView::of_tunnelled(peer, dev_url(Some(peer.token_id))));
        let others = status.other_peers.iter().map(|peer| PeerView::of_other(peer, dev_url(Some(peer.token_id))));
        let mut peers: Vec<_> = tunnelled.chain(others).collect();
        peers.sort_by_key(|peer| peer.token_id);
        Self { schema: SCHEMA.to_owned(), own, peers }
    }
}

impl PeerView {
    fn of_tunnelled(peer: &PeerStatus, dev_url: Option<DevUrl>) -> Self {
        Self {
            token_id: peer.token_id,
            name: peer.name.clone(),
            kind: NodeKind::Wireguard,
            address: Some(peer.address),
            url: None,
            connect_to: best(Some(peer.address), None),
            dev_url,
            public_key: Some(peer.public_key),
            tls_key: peer.tls_key,
            state: Some(peer.state),
        }
    }

    fn of_other(peer: &OtherPeer, dev_url: Option<DevUrl>) -> Self {
        Self {
            token_id: peer.token_id,
            name: peer.name.clone(),
            kind: peer.kind,
            address: None,
            url: peer.url.clone(),
            connect_to: best(None, peer.url.as_deref()),
            dev_url,
            public_key: None,
            tls_key: peer.tls_key,
            state: None,
        }
    }
}

/// The address leads through the tunnel, whose peers are proved packet by packet; a URL leads over TLS.
fn best(address: Option<Ipv4Addr>, url: Option<&str>) -> Option<String> {
    address.map(|address| address.to_string()).or_else(|| url.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_comes_before_the_url() {
        let (address, url) = (Some(Ipv4Addr::new(10, 0, 1, 3)), Some("https://x-443s.gw.example"));
        assert_eq!(best(address, url).as_deref(), Some("10.0.1.3"));
        assert_eq!(best(address, None).as_deref(), Some("10.0.1.3"));
        assert_eq!(best(None, url).as_deref(), url);
        assert_eq!(best(None, None), None);
    }

    #[test]
    fn the_shape_is_fixed() {
        let other = OtherPeer {
            token_id: TokenId::new(4).unwrap(),
            name: "node-4".to_owned(),
            kind: NodeKind::Tls,
            instance_id: mesh_core::id::InstanceId([0xab; 20]),
            tls_key: Some(TlsKey([0xcd; 32])),
            url: Some("https://x-443s.gw.example".to_owned()),
        };
        let view = PeersView {
            peers: vec![
                PeerView {
                    token_id: TokenId::new(3).unwrap(),
                    name: "node-3".to_owned(),
                    kind: NodeKind::Wireguard,
                    address: Some(Ipv4Addr::new(10, 0, 1, 3)),
                    url: None,
                    connect_to: Some("10.0.1.3".to_owned()),
                    dev_url: Some("http://localhost:8080".parse().unwrap()),
                    public_key: Some(WireguardKey([0; 32])),
                    tls_key: None,
                    state: Some(PeerState::Up),
                },
                PeerView::of_other(&other, None),
            ],
            ..PeersView::default()
        };
        let expected = serde_json::json!({
            "schema": "p2p-agent.peers/v1",
            "self": {
                "token_id": null, "name": null, "kind": null, "address": null, "url": null, "connect_to": null,
                "dev_url": null,
                "public_key": null, "tls_key": null, "state": "unknown",
            },
            "peers": [
                {
                    "token_id": 3, "name": "node-3", "kind": "wireguard", "address": "10.0.1.3", "url": null,
                    "connect_to": "10.0.1.3", "dev_url": "http://localhost:8080", "public_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                    "tls_key": null, "state": "up",
                },
                {
                    "token_id": 4, "name": "node-4", "kind": "tls", "address": null, "url": "https://x-443s.gw.example",
                    "connect_to": "https://x-443s.gw.example", "dev_url": null, "public_key": null, "tls_key": "cd".repeat(32), "state": null,
                },
            ],
        });
        assert_eq!(serde_json::to_value(&view).unwrap(), expected);
    }
}
