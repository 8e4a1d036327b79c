//! Registrations that are spent: one that left, or that a newer one replaced, is not believed again because one source lists it.
//!
//! A proof never expires: its signatures stay valid. So what this node once saw of a token is kept, on disk too, and outweighs what
//! a single source says later; two sources that agree outweigh it. A reorg that undoes a leaving is therefore believed from two
//! sources only: from one, any revoked node could return this way. A reorg that undoes a registration looks like a leaving from here.
//! Its node registers again, with the same key epoch and a later deadline: that is another signature, and is believed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Agent, View,
    warnings::{Finding, find_each},
};
use crate::{
    gate::WITNESSES, id::TokenId, proof::VerifiedPeer, registration::Registration, registry::Registry, status::Severity,
};

/// By token, the latest registration that holds no more, and with it every earlier one. Made of what nodes signed: no source can
/// invent one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpentKeyEpochs(BTreeMap<TokenId, Signed>);

/// Which of a token's registrations it is: as the contract carries them out, key epochs grow; of one key epoch it carries out a
/// single one, unless a reorg undoes that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "OnDisk", into = "(u32, u64)")]
struct Signed {
    key_epoch: u32,
    /// Unix seconds.
    deadline: u64,
}

/// A key epoch alone, as it was kept before deadlines were, stands for all registrations with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum OnDisk {
    KeyEpoch(u32),
    Signed(u32, u64),
}

impl From<OnDisk> for Signed {
    fn from(saved: OnDisk) -> Self {
        match saved {
            OnDisk::KeyEpoch(key_epoch) => Self { key_epoch, deadline: u64::MAX },
            OnDisk::Signed(key_epoch, deadline) => Self { key_epoch, deadline },
        }
    }
}

impl From<Signed> for (u32, u64) {
    fn from(signed: Signed) -> Self {
        (signed.key_epoch, signed.deadline)
    }
}

impl Signed {
    const fn of(registration: &Registration) -> Self {
        Self { key_epoch: registration.key_epoch, deadline: registration.deadline }
    }

    /// The last that there can be before this key epoch.
    const fn before(key_epoch: u32) -> Self {
        Self { key_epoch: key_epoch.saturating_sub(1), deadline: u64::MAX }
    }
}

impl SpentKeyEpochs {
    fn get(&self, token: TokenId) -> Signed {
        self.0.get(&token).copied().unwrap_or_default()
    }

    fn raise(&mut self, token: TokenId, spent: Signed) {
        // No node signs key epoch 0.
        if spent.key_epoch > 0 && spent > self.get(token) {
            self.0.insert(token, spent);
        }
    }
}

impl Agent {
    /// Notes which peers left: proved and on record before, and missing in a later block in which something has changed. An older
    /// state of the contract, as a lagging endpoint shows it, proves no leaving.
    pub(super) fn note_leavings(&mut self, previous: Option<&View>, registry: &Registry) {
        let is_later = previous.is_some_and(|View { registry: before, .. }| {
            registry.block.number > before.block.number && registry.epoch > before.epoch
        });
        if !is_later {
            return;
        }
        let own = self.own_token();
        for (token, registration) in self.proofs.registrations() {
            let is_listed = registry.peers.binary_search_by_key(&token, |record| record.token).is_ok();
            if !is_listed && Some(token) != own {
                self.spent.raise(token, Signed::of(registration));
            }
        }
    }

    /// Takes out the peers whose registration is spent, unless at least two sources list them, and notes what the remaining ones have
    /// spent.
    pub(super) fn hold_back_spent(&mut self, proved: &mut Vec<VerifiedPeer>) {
        let is_witnessed = self.view.as_ref().is_some_and(|view| view.witnesses >= WITNESSES);
        let registrations = self.proofs.registrations();
        let signed: BTreeMap<_, _> = registrations.map(|(token, signed)| (token, Signed::of(signed))).collect();
        self.came_back.clear();
        proved.retain(|peer| {
            let Some(signed) = signed.get(&peer.token()).copied() else { return false };
            let stays = signed > self.spent.get(peer.token());
            if stays {
                self.spent.raise(peer.token(), Signed::before(signed.key_epoch));
            } else if is_witnessed {
                self.spent.0.insert(peer.token(), Signed::before(signed.key_epoch));
            } else {
                self.came_back.push((peer.token(), signed.key_epoch));
            }
            stays || is_witnessed
        });
    }

    pub(super) fn find_returned(&self, found: &mut Vec<Finding>) {
        find_each(found, self.came_back.iter().copied(), |token, key_epoch| {
            let message = format!(
                "token {token} is listed again with a registration of key epoch {key_epoch} that it had before it left or registered again: \
                 not believed from a single RPC endpoint"
            );
            Finding::new("W407", "peer-came-back", Severity::Critical, message).hint(
                "the RPC endpoint serves an old state, or the chain took the leaving back: give `--rpc-url` three times, for endpoints \
                 of different operators; what two of them agree on is believed",
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_saved_is_kept() {
        let spent: SpentKeyEpochs = serde_json::from_str(r#"{"2":3,"7":[1,1700003600]}"#).unwrap();
        let [old, new] = [2, 7].map(|id| spent.get(TokenId::new(id).unwrap()));
        assert_eq!(old, Signed { key_epoch: 3, deadline: u64::MAX });
        assert_eq!(new, Signed { key_epoch: 1, deadline: 1_700_003_600 });
        let again = serde_json::from_str(&serde_json::to_string(&spent).unwrap()).unwrap();
        assert_eq!(spent, again);
    }
}
