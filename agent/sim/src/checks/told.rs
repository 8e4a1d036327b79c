//! What members tell a node that cannot read: a peer that left is off that one too, and few members remove none.

use std::time::Duration;

use mesh_core::{diff::Change, id::TokenId, id::WireguardKey};

use super::Check;
use crate::{
    cluster::{token, wireguard_key},
    scenario::{Fault, Profile},
    world::World,
};

/// A node was a peer with all others before, for so long: it has sessions, and a first read of its own.
const SETTLED: Duration = Duration::from_secs(3);

impl World {
    /// A peer left in this block: it is to be off the node that cannot read as soon as off all others, where enough members can tell.
    pub(crate) fn check_told(&mut self, node: usize, gone: TokenId, key: WireguardKey, left: Duration) {
        let is_back = self.chain.head().state.peer(gone).is_some();
        if is_back || !self.is_blocked(node) || !self.could_be_told(node, gone, left) {
            return;
        }
        let has_peer = self.nodes[node].process.as_ref().is_some_and(|process| process.device.has_peer(key));
        if has_peer {
            let what = format!("token {gone} left at {left:.3?}, and node {node}, whose RPC is blocked, still has it");
            self.checks.fail("told-in-time", self.now, what);
        }
    }

    /// f + 1 of the members that the node last believed are honest, read the contract, and were its peers all the time.
    fn could_be_told(&self, node: usize, gone: TokenId, left: Duration) -> bool {
        let runs_since = |node: usize| self.nodes[node].process.as_ref().map(|process| process.started);
        let is_steady = |node: usize| runs_since(node).is_some_and(|since| since + SETTLED <= left);
        let Some(process) = &self.nodes[node].process else { return false };
        let clock = self.nodes[node].clock(process.started, self.now);
        let Some(read) = process.agent.status(clock).registry.block else { return false };
        let Some(believed) = self.chain.at(read.number) else { return false };
        let listed = believed.state.peers().count();
        let lies = |other: usize| self.scenario.history.iter().any(|timed| timed.fault.is_lie_of(other));
        let tells = |other: &usize| {
            let is_peer = self.chain.head_at(left).state.peer(token(*other)).is_some()
                && believed.state.peer(token(*other)).is_some()
                && process.device.has_peer(wireguard_key(*other));
            let reads = self.nodes[*other].informed_since.is_some_and(|since| since + SETTLED <= left);
            *other != node && token(*other) != gone && is_peer && reads && !lies(*other) && is_steady(*other)
        };
        let tellers = (0..self.nodes.len()).filter(tells).count();
        is_steady(node) && believed.state.peer(gone).is_some() && tellers > listed.saturating_sub(1) / 2
    }

    /// What f members or fewer say removes no peer; and what members removed stays out while the node cannot read.
    pub(crate) fn check_told_change(&mut self, node: usize, change: &Change) {
        if self.scenario.profile != Profile::Blind {
            return;
        }
        let is_listed = |key: WireguardKey| self.chain.head().state.peers().any(|peer| peer.wireguard_key == key);
        match change {
            Change::RemovePeer(key) if is_listed(*key) => {
                let what = format!("node {node} removes {key}, which the contract lists");
                self.checks.fail("few-remove-none", self.now, what);
            }
            Change::AddPeer(peer) if self.nodes[node].told_out.contains(&peer.public_key) => {
                let what = format!(
                    "node {node} adds token {} again, and has read nothing since members removed it",
                    peer.token
                );
                self.checks.fail("told-stays-out", self.now, what);
            }
            Change::RemovePeer(key) if self.is_blocked(node) => drop(self.nodes[node].told_out.insert(*key)),
            _ => {}
        }
    }

    pub(crate) fn is_blocked(&self, node: usize) -> bool {
        self.nodes[node].blocked.is_some()
    }

    /// When a token left, that is looked at in every node that cannot read.
    pub(crate) fn expect_told(&mut self, gone: TokenId, key: WireguardKey) {
        for node in (0..self.nodes.len()).filter(|node| token(*node) != gone) {
            let check = Check::Told { node, token: gone, key, left: self.now };
            self.events.add(self.now + Check::GONE_WITHIN, crate::world::Event::Check(check));
        }
    }
}

impl Fault {
    fn is_lie_of(&self, node: usize) -> bool {
        matches!(self, Self::Collude(liars, ..) if liars.contains(&node))
    }
}
