//! The members of the cluster, as the agent lists them.

use std::net::Ipv4Addr;

use mesh_core::{
    id::TokenId,
    status::{MembershipState, NodeKind, PeerState},
};
use serde::{Deserialize, Deserializer};

/// What [`Agent::peers`](crate::Agent::peers) understands.
pub(crate) const SCHEMA: &str = "p2p-agent.peers/v1";

/// One member of the cluster. What cannot be used from this node is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its NFT; for a WireGuard member the last part of its address.
    pub token_id: TokenId,
    /// `node-<token>`, or the name that this node's operator gave it.
    pub name: String,
    /// What it is in the mesh.
    pub kind: NodeKind,
    /// Its address in the mesh.
    pub address: Option<Ipv4Addr>,
    /// `https://…`, where its application takes TLS behind the dstack gateway.
    pub url: Option<String>,
    /// The free-form URL that its owner registered, in a cluster with devMode.
    pub dev_url: Option<String>,
    /// The best way to it from this node, as its agent decides: the address, else the URL.
    pub connect_to: Option<String>,
    /// Whether it answers at this moment; `None` for this node, and for one that nothing is sent to.
    pub state: Option<PeerState>,
}

impl Member {
    /// Its endpoint by the contract: the development URL, else the https URL, else the address.
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        let url = self.dev_url.as_ref().or(self.url.as_ref());
        url.cloned().or_else(|| Some(self.address?.to_string()))
    }
}

/// `/v1/peers`: this node and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// Where this node stands.
    pub membership: MembershipState,
    /// This node, once the contract lists a token for it.
    pub own: Option<Member>,
    /// The others, ascending by token; with former members that are still on the device, which are `removing`.
    pub others: Vec<Member>,
    /// Whether this agent reports development URLs.
    pub(crate) reports_dev_urls: bool,
}

impl Peers {
    /// The members, ascending by token, with this node or without. A node that lost its membership reaches no member.
    #[must_use]
    pub fn members(self, include_self: bool) -> Vec<Member> {
        if self.membership == MembershipState::Fenced {
            return Vec::new();
        }
        let own = self.own.filter(|_| include_self);
        let others = self.others.into_iter().filter(|member| member.state != Some(PeerState::Removing));
        let mut members: Vec<_> = others.chain(own).collect();
        members.sort_by_key(|member| member.token_id);
        members
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Answer { own, peers } = Answer::deserialize(deserializer)?;
        let mut others: Vec<_> = peers.into_iter().map(Member::from).collect();
        others.sort_by_key(|member| member.token_id);
        let (membership, reports_dev_urls) = (own.state, own.dev_url.is_some());
        Ok(Self { membership, own: own.member(), others, reports_dev_urls })
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "self")]
    own: Own,
    peers: Vec<Listed>,
}

#[derive(Deserialize)]
struct Own {
    token_id: Option<TokenId>,
    name: Option<String>,
    kind: Option<NodeKind>,
    address: Option<Ipv4Addr>,
    url: Option<String>,
    #[serde(default, deserialize_with = "said")]
    connect_to: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    dev_url: Option<Option<String>>,
    state: MembershipState,
}

#[derive(Deserialize)]
struct Listed {
    token_id: TokenId,
    name: String,
    kind: Option<NodeKind>,
    address: Option<Ipv4Addr>,
    url: Option<String>,
    #[serde(default, deserialize_with = "said")]
    connect_to: Option<Option<String>>,
    dev_url: Option<String>,
    state: Option<PeerState>,
}

impl Own {
    fn member(self) -> Option<Member> {
        let token_id = self.token_id?;
        Some(Member {
            token_id,
            name: self.name.unwrap_or_else(|| format!("node-{token_id}")),
            kind: self.kind.unwrap_or(NodeKind::Wireguard),
            address: self.address,
            connect_to: self.connect_to.unwrap_or_else(|| best(self.address, self.url.as_ref())),
            url: self.url,
            dev_url: self.dev_url.flatten(),
            state: None,
        })
    }
}

impl From<Listed> for Member {
    fn from(listed: Listed) -> Self {
        let Listed { token_id, name, kind, address, url, connect_to, dev_url, state } = listed;
        let connect_to = connect_to.unwrap_or_else(|| best(address, url.as_ref()));
        // Agents of older versions have tunnels only, and no field for it.
        Self { token_id, name, kind: kind.unwrap_or(NodeKind::Wireguard), address, url, connect_to, dev_url, state }
    }
}

/// Agents of older versions leave it to this.
fn best(address: Option<Ipv4Addr>, url: Option<&String>) -> Option<String> {
    address.map(|address| address.to_string()).or_else(|| url.cloned())
}

/// Distinguishes `null` from a missing field.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
