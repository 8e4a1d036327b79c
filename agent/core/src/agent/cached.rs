//! What is kept on disk of the contract for the next start, and what of it a change has changed: of thousands of peers, one.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::SpentKeyEpochs;
use crate::{
    ascending::Ascending,
    gate::Floor,
    id::TokenId,
    membership::Membership,
    registration::Proof,
    registry::{PeerRecord, Registry},
    status::ToldRemoval,
};

/// A verified registry on disk: lets a restart work while every RPC endpoint is down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedRegistry {
    /// The last accepted read, without the peers that nothing proves.
    pub registry: Registry,
    /// Proofs of its peers; verified again when loaded.
    pub proofs: BTreeMap<TokenId, Arc<Proof>>,
    /// Wall clock of that read, Unix seconds.
    pub read_at: u64,
    /// What can no longer be taken back.
    pub floor: Floor,
    /// The registration this node had, if it had one.
    pub member: Option<Membership>,
    /// Which key epochs were seen to be spent.
    #[serde(default)]
    pub spent: SpentKeyEpochs,
    /// Which peers left at the word of members, as far as no read has judged it yet.
    #[serde(default)]
    pub removed_by_peers: Vec<ToldRemoval>,
}

/// What leads from one [`CachedRegistry`] to a later one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedChange {
    /// Peers that are not in the later one.
    gone: Vec<TokenId>,
    /// The later one; of its peers, proofs and key epochs only those that are new or different.
    new: CachedRegistry,
}

impl CachedRegistry {
    /// What has changed since an earlier one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> CachedChange {
        let registry = Registry {
            peers: changed(by_token(&earlier.registry), by_token(&self.registry)).map(|(_, peer)| peer).collect(),
            domain: self.registry.domain,
            block: self.registry.block,
            finalized: self.registry.finalized,
            epoch: self.registry.epoch,
            name: self.registry.name.clone(),
            network: self.registry.network,
            base_domains: self.registry.base_domains.clone(),
            dev_urls: self.registry.dev_urls.clone(),
            own_nodes: self.registry.own_nodes.clone(),
        };
        let mut staying = Ascending::new(by_token(&self.registry));
        let gone = by_token(&earlier.registry).map(|(token, _)| token).filter(|token| staying.find(*token).is_none());
        let gone = gone.collect();
        let new = Self {
            registry,
            proofs: changed_values(&earlier.proofs, &self.proofs),
            read_at: self.read_at,
            floor: Floor {
                epoch: self.floor.epoch,
                key_epochs: changed_values(&earlier.floor.key_epochs, &self.floor.key_epochs),
            },
            member: self.member,
            spent: SpentKeyEpochs(changed_values(&earlier.spent.0, &self.spent.0)),
            removed_by_peers: self.removed_by_peers.clone(),
        };
        CachedChange { gone, new }
    }

    /// Makes it what these changes lead to. Whatever they say, it is as plausible afterwards as one that is read whole: nothing is
    /// believed of it before it is proved.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = CachedChange>) {
        let peers = std::mem::take(&mut self.registry.peers);
        let mut peers: BTreeMap<TokenId, PeerRecord> = peers.into_iter().map(|peer| (peer.token, peer)).collect();
        for CachedChange { gone, new } in changes {
            peers.extend(new.registry.peers.into_iter().map(|peer| (peer.token, peer)));
            for token in gone {
                peers.remove(&token);
                self.proofs.remove(&token);
            }
            self.proofs.extend(new.proofs);
            self.floor.epoch = new.floor.epoch;
            self.floor.key_epochs.extend(new.floor.key_epochs);
            self.spent.0.extend(new.spent.0);
            self.registry = Registry { peers: Vec::new(), ..new.registry };
            (self.read_at, self.member, self.removed_by_peers) = (new.read_at, new.member, new.removed_by_peers);
        }
        self.registry.peers = peers.into_values().collect();
    }
}

fn by_token(registry: &Registry) -> impl Iterator<Item = (TokenId, &PeerRecord)> {
    registry.peers.iter().map(|peer| (peer.token, peer))
}

/// What is new or different in the later one; both ascend.
fn changed<'a, T: Clone + PartialEq + 'a>(
    earlier: impl Iterator<Item = (TokenId, &'a T)>,
    later: impl Iterator<Item = (TokenId, &'a T)>,
) -> impl Iterator<Item = (TokenId, T)> {
    let mut earlier = Ascending::new(earlier);
    later
        .filter(move |(token, value)| earlier.find(*token) != Some(*value))
        .map(|(token, value)| (token, value.clone()))
}

fn changed_values<T: Clone + PartialEq>(
    earlier: &BTreeMap<TokenId, T>,
    later: &BTreeMap<TokenId, T>,
) -> BTreeMap<TokenId, T> {
    let [earlier, later] = [earlier, later].map(|known| known.iter().map(|(token, value)| (*token, value)));
    changed(earlier, later).collect()
}
