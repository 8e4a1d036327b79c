//! Which node key a new node takes: decided before it can register, and kept.

use std::path::Path;

use mesh_chain::Sources;
use tokio::sync::Notify;

use super::unless_stopped;
use crate::{
    api::ApiDriver,
    identity::{Identity, node_key::Outlook},
};

/// A new node on dstack 0.6 takes its node key of guest API v1 where the contract takes that. `None` if asked to stop.
pub(super) async fn decide(
    identity: &mut Identity,
    chain: &Sources,
    state_dir: &Path,
    api: &mut ApiDriver,
    stop: &Notify,
) -> Option<anyhow::Result<()>> {
    if !identity.is_undecided() {
        return Some(Ok(()));
    }
    let takes_v1 = unless_stopped(chain.takes_guest_v1(), "the RPC endpoints", api, stop).await?;
    let why = Outlook::of_new_node(takes_v1);
    let decided = identity.decide(takes_v1 == Some(true), state_dir);
    tracing::info!(guest_api = %identity.node_key().api, why, "this new node has chosen its node key");
    Some(decided.map_err(Into::into))
}
