//! What this machine should look like: a function of proofs, policy and own membership.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{
    id::{AppId, MemberKey, TokenId, WireguardKey},
    member::{Flaw, Member, Surroundings, sift},
    network::MeshNetwork,
    proof::VerifiedPeer,
};

/// Everything this machine should have of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The network that is guarded: its blackhole route is there from the first moment on, and outlives the agent.
    pub guard_route: Option<MeshNetwork>,
    /// A packet filter table guards it as well.
    pub guard_table: bool,
    /// The device, while this node is a peer.
    pub device: Option<DesiredDevice>,
}

/// The device as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredDevice {
    /// Our public key.
    pub public_key: WireguardKey,
    /// UDP port.
    pub listen_port: u16,
    /// Our mesh address.
    pub address: Ipv4Addr,
    /// The mesh network.
    pub network: MeshNetwork,
    /// Its peers, ascending by token; keys and addresses are distinct.
    pub peers: Vec<DesiredPeer>,
}

/// A peer as it should be on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// Its token.
    pub token: TokenId,
    /// Its key.
    pub public_key: WireguardKey,
    /// The one inner address it owns (/32).
    pub address: Ipv4Addr,
    /// Where to send first; a live session keeps the endpoint it roamed to.
    pub endpoint: Option<SocketAddr>,
    /// Its member key where its app id equals ours: then the pair has a preshared key, which the shell derives with it and which is
    /// never seen here.
    pub preshared_with: Option<MemberKey>,
    /// The app it runs.
    pub app_id: AppId,
    /// Seconds between keepalives.
    pub persistent_keepalive: u16,
}

/// How the own device is configured.
#[derive(Debug, Clone, Copy)]
pub struct OwnDevice {
    /// Our mesh address.
    pub address: Ipv4Addr,
    /// UDP port.
    pub listen_port: u16,
    /// Seconds between keepalives to every peer.
    pub keepalive: u16,
    /// Our app: peers of the same one get a preshared key.
    pub app_id: AppId,
}

/// Blocks a registration must have on top before its peer is added. A peer that is configured already stays, whatever a reorg or
/// a new registration does to its block.
#[derive(Debug, Clone, Copy)]
pub struct Confirmations {
    /// Height of the read.
    pub head: u64,
    /// How many; 0 adds at once.
    pub need: u64,
}

/// The wanted device, and the peers that are not on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The device with its peers.
    pub device: DesiredDevice,
    /// Verified peers that are left out, ascending by token.
    pub flawed: Vec<(TokenId, Flaw)>,
    /// Verified peers whose registration is too young, ascending by token.
    pub waiting: Vec<TokenId>,
}

/// The device this node should have while it is a peer itself.
#[must_use]
pub fn select(
    peers: &[VerifiedPeer],
    around: &Surroundings,
    own: OwnDevice,
    confirmations: Confirmations,
) -> Selection {
    let (members, flawed) = sift(peers, around);
    let (ripe, young): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| confirmations.are_enough_for(member.peer));
    let device = DesiredDevice {
        public_key: around.own_key,
        listen_port: own.listen_port,
        address: own.address,
        network: around.network,
        peers: ripe.iter().map(|member| desired_peer(member, own)).collect(),
    };
    Selection { device, flawed, waiting: young.iter().map(|member| member.peer.token()).collect() }
}

impl Confirmations {
    /// Whether a peer may be used, or is in use already.
    pub(crate) fn are_enough_for(self, peer: &VerifiedPeer) -> bool {
        peer.is_admitted() || self.need == 0 || peer.registered_block().saturating_add(self.need) <= self.head
    }
}

fn desired_peer(member: &Member<'_>, own: OwnDevice) -> DesiredPeer {
    DesiredPeer {
        token: member.peer.token(),
        public_key: member.peer.wireguard_key(),
        address: member.address,
        endpoint: member.endpoint,
        preshared_with: (member.peer.app_id() == own.app_id).then(|| member.peer.member_key()),
        app_id: member.peer.app_id(),
        persistent_keepalive: own.keepalive,
    }
}
