//! What to send to deploy a cluster: two contract creations, implementation first.

use alloy_primitives::{Address, Bytes, FixedBytes};
use alloy_sol_types::{SolCall, SolConstructor};
use mesh_core::{id::AppId, network::MeshNetwork};

use crate::abi::{
    DstackClusterNFT::{self, initializeCall, initializeFromDstackAppCall, upgradeToAndCallCall},
    ERC1967Proxy, IDstackClusterNFT,
};

/// What a cluster is born with. See `IDstackClusterNFT.ClusterParams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCluster {
    /// ERC-721 name: the name of the mesh.
    pub name: String,
    /// ERC-721 symbol.
    pub symbol: String,
    /// Contract owner: mints, revokes, governs, upgrades.
    pub owner: Address,
    /// The mesh network, for ever.
    pub network: MeshNetwork,
    /// KMS roots trusted at once.
    pub kms_roots: Vec<Address>,
    /// Further dstack apps; the cluster's own address is always the first.
    pub app_ids: Vec<AppId>,
}

/// Creation data of the implementation. One deployment serves any number of clusters.
#[must_use]
pub fn implementation_init_code() -> Bytes {
    DstackClusterNFT::BYTECODE.clone()
}

/// The call by which a fresh proxy becomes a cluster.
#[must_use]
pub fn initialize(cluster: &NewCluster) -> initializeCall {
    initializeCall { params: cluster.into() }
}

/// The call by which the proxy of a dstack `DstackApp` becomes a cluster and keeps its owner (which `cluster` must name), compose
/// hashes, devices and flags: the data of the `upgradeToAndCall` that gives it the implementation. The contract owner sends it.
#[must_use]
pub fn initialize_from_dstack_app(cluster: &NewCluster) -> initializeFromDstackAppCall {
    initializeFromDstackAppCall { params: cluster.into() }
}

/// The upgrade of a `DstackApp`'s proxy to a cluster.
#[must_use]
pub fn upgrade_dstack_app(implementation: Address, cluster: &NewCluster) -> upgradeToAndCallCall {
    let data = initialize_from_dstack_app(cluster).abi_encode().into();
    upgradeToAndCallCall { newImplementation: implementation, data }
}

impl From<&NewCluster> for IDstackClusterNFT::ClusterParams {
    fn from(cluster: &NewCluster) -> Self {
        let network = cluster.network.network();
        Self {
            name: cluster.name.clone(),
            symbol: cluster.symbol.clone(),
            owner: cluster.owner,
            networkBase: FixedBytes(network.ip().octets()),
            prefixLength: network.prefix(),
            kmsRoots: cluster.kms_roots.clone(),
            appIds: cluster.app_ids.iter().map(|app_id| Address::from(*app_id)).collect(),
        }
    }
}

/// Creation data of a cluster's proxy, which initializes it in the same transaction: no other transaction can come in between.
#[must_use]
pub fn proxy_init_code(implementation: Address, cluster: &NewCluster) -> Bytes {
    let data = initialize(cluster).abi_encode();
    let arguments = ERC1967Proxy::constructorCall { implementation, _data: data.into() };
    [&ERC1967Proxy::BYTECODE[..], &arguments.abi_encode()].concat().into()
}
