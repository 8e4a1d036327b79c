//! The contract's state at one block, parsed but not yet believed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    dev_url::DevUrls,
    id::{Address, AppId, BlockRef, InstanceId, TlsKey, TokenId, WireguardKey},
    network::MeshNetwork,
    registration::{Domain, Gateway, NetworkType, Registration},
};

/// One whole read of the contract, pinned to a block hash. Nothing in it is proved: see `proof::verify` for what
/// signatures can prove and `quorum` for what only agreement can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Chain and contract it was read from.
    pub domain: Domain,
    /// The block it was read at.
    pub block: BlockRef,
    /// Height of the chain's latest `finalized` block at that moment; `None` where the chain has no such notion.
    pub finalized: Option<u64>,
    /// The contract's `epoch()`: grows with every visible change.
    pub epoch: u64,
    /// ERC-721 `name()`: the name of the mesh.
    pub name: String,
    /// The contract's `meshNetwork()`.
    pub network: MeshNetwork,
    /// Base domains by index - 1; removed ones are `None`.
    pub base_domains: Vec<Option<String>>,
    /// Active peers, ascending by token.
    pub peers: Vec<PeerRecord>,
    /// Development URLs of active peers, in a cluster with devMode.
    #[serde(default)]
    pub dev_urls: DevUrls,
    /// The tokens that concern the reading agent: those bound to its instance id, and the one that the operator chose.
    pub own_nodes: Vec<NodeRecord>,
}

impl Registry {
    /// The record of this token, in a registry that the gate let through: its peers ascend.
    #[must_use]
    pub fn peer(&self, token: TokenId) -> Option<&PeerRecord> {
        let index = self.peers.binary_search_by_key(&token, |record| record.token).ok()?;
        self.peers.get(index)
    }
}

/// An active peer as the contract lists it. See `IDstackClusterNFT.Peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its token.
    pub token: TokenId,
    /// Its CVM.
    pub instance: InstanceId,
    /// Address of its member key, fixed by the first registration of the binding.
    pub member_address: Address,
    /// Its WireGuard public key; 32 zero bytes for [`NetworkType::TlsGateway`].
    pub wireguard_key: WireguardKey,
    /// Its TLS key, where it has one.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// The key epoch of its registration.
    pub key_epoch: u32,
    /// Endpoint updates since that registration.
    pub endpoint_epoch: u32,
    /// How it is reached.
    pub network_type: NetworkType,
    /// Direct UDP endpoint: a hint, never a reason to believe.
    pub endpoint: Option<SocketAddr>,
    /// Its path through the dstack gateway.
    pub gateway: Option<Gateway>,
    /// KMS root its registration recovered to.
    pub kms_root: Address,
    /// App its key chain was issued to.
    pub app_id: AppId,
    /// The block whose `PeerRegistered` log is its proof.
    pub registered_block: u64,
}

impl PeerRecord {
    /// What the contract lists after it carried out this registration in the block of this number, where the key chain leads from
    /// `kms_root` to `app_id`, and these are its base domains. Of use to whatever stands in for the contract: agents read records.
    #[must_use]
    pub fn registered(
        registration: &Registration,
        base_domains: &[Option<String>],
        kms_root: Address,
        app_id: AppId,
        registered_block: u64,
    ) -> Self {
        Self {
            token: registration.token,
            instance: registration.instance,
            member_address: registration.member_address,
            wireguard_key: registration.wireguard_key,
            tls_key: registration.tls_key,
            key_epoch: registration.key_epoch,
            endpoint_epoch: 0,
            network_type: registration.network_type,
            endpoint: registration.endpoint,
            gateway: registration.gateway.and_then(|signed| signed.listed(base_domains)),
            kms_root,
            app_id,
            registered_block,
        }
    }
}

/// A minted token. See `IDstackClusterNFT.Node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The token.
    pub token: TokenId,
    /// Its ERC-721 owner; `None` when it is not minted.
    pub owner: Option<Address>,
    /// The instance id it is bound to.
    pub instance: Option<InstanceId>,
    /// Member address fixed by the first registration of the binding.
    pub member_address: Option<Address>,
    /// The app that may register for this binding; `None`: any that the contract allows.
    pub bound_app_id: Option<AppId>,
    /// The last key epoch used by the token.
    pub key_epoch: u32,
    /// Endpoint updates since its last registration.
    pub endpoint_epoch: u32,
    /// Whether it is a peer now.
    pub active: bool,
    /// Whether the contract owner barred it.
    pub revoked: bool,
}

impl NodeRecord {
    /// What the contract answers for a token that it has not minted.
    #[must_use]
    pub const fn unminted(token: TokenId) -> Self {
        Self {
            token,
            owner: None,
            instance: None,
            member_address: None,
            bound_app_id: None,
            key_epoch: 0,
            endpoint_epoch: 0,
            active: false,
            revoked: false,
        }
    }
}
