//! Key epochs that are spent: a registration that left, or that a newer one replaced, is not believed again because one source lists it.
//!
//! A proof never expires: its signatures stay valid. So what this node once saw of a token is kept, on disk too, and outweighs what
//! a single source says later; two sources that agree outweigh it. A reorg that undoes a leaving is therefore believed from two
//! sources only: from one, any revoked node could return this way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Agent, View,
    warnings::{Finding, find_each},
};
use crate::{
    ascending::Ascending, gate::WITNESSES, id::TokenId, proof::VerifiedPeer, registry::Registry, status::Severity,
};

/// By token, the highest key epoch with which no registration holds any more. Made of key epochs that nodes signed: no source can invent
/// one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpentKeyEpochs(pub(super) BTreeMap<TokenId, u32>);

impl SpentKeyEpochs {
    fn get(&self, token: TokenId) -> u32 {
        self.0.get(&token).copied().unwrap_or(0)
    }

    fn raise(&mut self, token: TokenId, spent: u32) {
        if spent > self.get(token) {
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
        for (token, signed) in self.proofs.signed_key_epochs() {
            if registry.peer(token).is_none() && Some(token) != own {
                self.spent.raise(token, signed);
            }
        }
    }

    /// Takes out the peers whose key epoch is spent, unless at least two sources list them, and notes what the remaining ones have
    /// spent.
    pub(super) fn hold_back_spent(&mut self, proved: &mut Vec<VerifiedPeer>) {
        let is_witnessed = self.view.as_ref().is_some_and(|view| view.witnesses >= WITNESSES);
        let mut signed = Ascending::new(self.proofs.signed_key_epochs());
        let mut spent = Ascending::new(self.spent.0.iter().map(|(token, spent)| (*token, *spent)));
        let mut others = Vec::new();
        self.came_back.clear();
        proved.retain(|peer| {
            let token = peer.token();
            let Some(signed) = signed.find(token) else { return false };
            let (spent, replaced) = (spent.find(token).unwrap_or(0), signed.saturating_sub(1));
            let stays = signed > spent;
            if stays || is_witnessed {
                others.extend((replaced != spent).then_some((token, replaced)));
            } else {
                self.came_back.push((token, signed));
            }
            stays || is_witnessed
        });
        self.spent.0.extend(others);
    }

    pub(super) fn find_returned(&self, found: &mut Vec<Finding>) {
        find_each(found, self.came_back.iter().copied(), |token, key_epoch| {
            let message = format!(
                "token {token} is listed again with key epoch {key_epoch}, which it had before it left or registered again: not believed \
                 from a single RPC endpoint"
            );
            Finding::new("W407", "peer-came-back", Severity::Critical, message).hint(
                "the RPC endpoint serves an old state, or the chain took the leaving back: give `--rpc-url` three times, for endpoints \
                 of different operators; what two of them agree on is believed",
            )
        });
    }
}
