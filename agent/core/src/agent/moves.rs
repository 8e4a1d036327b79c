//! Detects a copy of this node, which has its keys, by the changes to this node's record that this node did not sign.
//!
//! Two copies of one state directory are one node to the contract. Each puts its own endpoint on record, finds the other's there, and puts
//! its own there again, for as long as there are funds. So a node that sees its record moved a second time, and not by itself, stops.

use std::{collections::VecDeque, net::SocketAddr};

use super::Intent;
use crate::{member::canonical, registration::Gateway, registry::PeerRecord};

/// Moves by a copy of this node until this node stops. One may be an offer of an earlier run that was relayed late.
const PATIENCE: u32 = 2;
/// States of the record that are remembered, at most: the latest.
const MAX_KNOWN: usize = 64;

/// What is known of this node's record in this run.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// What this node signed, or has seen already: a reorg may bring it back.
    known: VecDeque<State>,
    /// The record was seen in this run.
    is_seen: bool,
    by_others: u32,
}

/// The part of the record that a holder of this node's keys can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    key_epoch: u32,
    endpoint_epoch: u32,
    endpoint: Option<SocketAddr>,
    gateway: Option<Gateway>,
}

impl Moves {
    /// This node signs that, while these are the contract's base domains.
    pub(super) fn note_signed(&mut self, intent: &Intent, base_domains: &[Option<String>]) {
        self.note(match intent {
            Intent::Register(signed) => State {
                key_epoch: signed.key_epoch,
                endpoint_epoch: 0,
                endpoint: signed.endpoint,
                gateway: signed.gateway.and_then(|gateway| gateway.listed(base_domains)),
            },
            Intent::UpdateEndpoint(signed) => State {
                key_epoch: signed.key_epoch,
                endpoint_epoch: signed.endpoint_epoch,
                endpoint: signed.endpoint,
                gateway: signed.gateway.and_then(|gateway| gateway.listed(base_domains)),
            },
        });
    }

    /// The record as just read, with this node's keys. True when a copy of this node moves it, again and again.
    pub(super) fn see(&mut self, record: &PeerRecord) -> bool {
        let endpoint = record.endpoint.map(canonical);
        let (key_epoch, endpoint_epoch) = (record.key_epoch, record.endpoint_epoch);
        let state = State { key_epoch, endpoint_epoch, endpoint, gateway: record.gateway };
        // What happened to the record before this run is not known.
        if std::mem::replace(&mut self.is_seen, true) && !self.known.contains(&state) {
            self.by_others += 1;
            tracing::warn!(
                key_epoch,
                endpoint_epoch,
                endpoint = state.endpoint.map(tracing::field::display),
                "another holder of this node's keys moved its record"
            );
        }
        self.note(state);
        self.by_others >= PATIENCE
    }

    fn note(&mut self, state: State) {
        if !self.known.contains(&state) {
            self.known.push_back(state);
        }
        if self.known.len() > MAX_KNOWN {
            self.known.pop_front();
        }
    }
}
