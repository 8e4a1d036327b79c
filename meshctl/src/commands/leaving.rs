//! Which peers a change takes out of the mesh, by what the contract says now.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use mesh_contract::{DstackClusterNFT::meshNetworkCall, mesh_network};
use mesh_core::{id::TokenId, registry::PeerRecord};

use super::nodes;
use crate::{
    chain::Chain,
    confirm::{Consequences, LeavingPeer},
    failure::Failure,
};

/// All peers at the newest block, by token.
pub(super) async fn peers(chain: &Chain, contract: Address) -> anyhow::Result<BTreeMap<TokenId, PeerRecord>> {
    let head = chain.head().await?;
    let network = chain.read(contract, meshNetworkCall {}, Some(head)).await?;
    let network = mesh_network(network.base, network.prefixLength)?;
    nodes::peers(chain, contract, network, head).await
}

/// What the operator is asked where these peers leave.
pub(super) async fn consequences(
    chain: &Chain,
    contract: Address,
    leaves: impl Fn(&PeerRecord) -> bool,
    (effect, way_back): (String, String),
) -> anyhow::Result<Consequences> {
    let peers = peers(chain, contract).await?;
    let leaving = peers.values().filter(|peer| leaves(peer));
    let leaving = leaving.map(|peer| LeavingPeer { token_id: peer.token, instance_id: peer.instance }).collect();
    Ok(Consequences::new(effect, way_back).leaving(leaving, peers.len() as u64))
}

/// A change that would change nothing.
pub(super) fn nothing_to_do(what: impl Into<String>, list: &str) -> Failure {
    Failure::new(what).hint(format!("there is nothing to do: compare what you gave with `{list}`"))
}
