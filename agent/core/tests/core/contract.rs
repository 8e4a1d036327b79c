//! A contract in memory: just enough of `DstackClusterNFT` to give agents something to follow, forks included.

use std::collections::BTreeMap;

use mesh_core::{
    id::{InstanceId, TokenId},
    registration::{EndpointUpdate, NetworkType, Proof, Registration, SignedGateway},
    registry::{NodeRecord, PeerRecord, Registry},
};

use crate::cluster::{Cluster, OWNER, block};

/// One block's state.
#[derive(Clone, Default)]
struct State {
    nodes: BTreeMap<TokenId, Token>,
    epoch: u64,
    finalized: Option<u64>,
}

#[derive(Clone)]
struct Token {
    node: NodeRecord,
    peer: Option<PeerRecord>,
}

/// The contract on a chain that can be reorganised. Every change is a block of its own.
#[derive(Clone)]
pub(crate) struct Contract {
    pub(crate) cluster: Cluster,
    states: Vec<State>,
    branch: u8,
    /// By index - 1.
    base_domains: Vec<Option<String>>,
    proofs: BTreeMap<(TokenId, u64), Proof>,
}

impl Contract {
    pub(crate) fn new() -> Self {
        let base_domains = vec![Some("gw.example".to_owned()), None];
        let (cluster, states) = (Cluster::new(), vec![State::default()]);
        Self { cluster, states, branch: 0, base_domains, proofs: BTreeMap::new() }
    }

    pub(crate) fn head(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    fn state(&self) -> &State {
        self.states.last().unwrap()
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.state().clone();
        change(&mut state);
        state.epoch += 1;
        self.states.push(state);
    }

    /// An empty block.
    pub(crate) fn mine(&mut self) {
        self.states.push(self.state().clone());
    }

    /// Makes everything up to the head final.
    pub(crate) fn finalize(&mut self) {
        let head = self.head();
        self.states.last_mut().unwrap().finalized = Some(head);
    }

    /// Replaces the last blocks by as many empty ones, never a final one. What happened in them never happened.
    pub(crate) fn reorg(&mut self, depth: u64) {
        let head = self.head();
        let finalized = self.state().finalized.unwrap_or(0);
        let fork = head.saturating_sub(depth).max(finalized);
        self.states.truncate(usize::try_from(fork).unwrap() + 1);
        self.branch = self.branch.wrapping_add(1);
        while self.head() < head {
            self.mine();
        }
        self.state_mut().finalized = Some(finalized).filter(|finalized| *finalized > 0);
        self.proofs.retain(|(_, number), _| *number <= fork);
    }

    fn state_mut(&mut self) -> &mut State {
        self.states.last_mut().unwrap()
    }

    pub(crate) fn bind(&mut self, token: TokenId, instance: InstanceId) {
        let known = self.state().nodes.get(&token).cloned();
        if known
            .as_ref()
            .is_some_and(|known| known.peer.is_some() || (known.node.revoked && known.node.owner.is_some()))
        {
            return;
        }
        let key_epoch = known.as_ref().map_or(0, |known| known.node.key_epoch);
        let node = NodeRecord {
            owner: Some(known.and_then(|known| known.node.owner).unwrap_or(OWNER)),
            instance: Some(instance),
            key_epoch,
            ..NodeRecord::unminted(token)
        };
        self.change(|state| {
            state.nodes.insert(token, Token { node, peer: None });
        });
    }

    /// Registers as `registerPeer` does; false where the contract would revert.
    pub(crate) fn register(&mut self, registration: Registration) -> bool {
        let number = self.head() + 1;
        let record = self.cluster.record_behind(&registration, &self.base_domains, number);
        let Some(known) = self.state().nodes.get(&registration.token) else { return false };
        let has_tls_key = registration.tls_key.is_some() || registration.network_type == NetworkType::Wireguard;
        let fits = known.node.owner.is_some()
            && has_tls_key
            && self.takes_place(registration.network_type, registration.gateway)
            && !known.node.revoked
            && known.node.instance == Some(registration.instance)
            && registration.key_epoch == known.node.key_epoch + 1
            && known.node.member_address.is_none_or(|fixed| fixed == record.member_address);
        if !fits {
            return false;
        }
        self.change(|state| {
            let known = state.nodes.get_mut(&registration.token).unwrap();
            known.node.key_epoch = registration.key_epoch;
            (known.node.member_address, known.node.endpoint_epoch) = (Some(record.member_address), 0);
            known.node.active = true;
            known.peer = Some(record);
        });
        let proof = self.cluster.prove(registration);
        self.proofs.insert((registration.token, number), proof);
        true
    }

    /// Registers as contracts without TLS keys did: what they have taken is there after an upgrade.
    pub(crate) fn register_formerly(&mut self, registration: Registration) {
        let number = self.head() + 1;
        let record = self.cluster.record_behind(&registration, &self.base_domains, number);
        self.change(|state| {
            let known = state.nodes.get_mut(&registration.token).unwrap();
            known.node.key_epoch = registration.key_epoch;
            (known.node.member_address, known.node.active) = (Some(record.member_address), true);
            known.peer = Some(record);
        });
        self.proofs.insert((registration.token, number), self.cluster.prove_formerly(registration));
    }

    /// As `Registrar.sol` has it: a place names a domain that is listed, and a TLS node must have one.
    fn takes_place(&self, network_type: NetworkType, gateway: Option<SignedGateway>) -> bool {
        let listed = |gateway: SignedGateway| gateway.listed(&self.base_domains).is_some();
        gateway.map_or(network_type == NetworkType::Wireguard, listed)
    }

    pub(crate) fn update_endpoint(&mut self, update: EndpointUpdate) -> bool {
        let fits = self.state().nodes.get(&update.token).is_some_and(|known| {
            let takes_place = |peer: &PeerRecord| self.takes_place(peer.network_type, update.gateway);
            known.peer.as_ref().is_some_and(takes_place)
                && update.key_epoch == known.node.key_epoch
                && update.endpoint_epoch == known.node.endpoint_epoch + 1
        });
        if fits {
            let gateway = update.gateway.and_then(|gateway| gateway.listed(&self.base_domains));
            self.change(|state| {
                let known = state.nodes.get_mut(&update.token).unwrap();
                known.node.endpoint_epoch = update.endpoint_epoch;
                let peer = known.peer.as_mut().unwrap();
                (peer.endpoint, peer.gateway) = (update.endpoint, gateway);
                peer.endpoint_epoch = update.endpoint_epoch;
            });
        }
        fits
    }

    /// Adds a base domain, unless it is there already, and returns its index.
    pub(crate) fn add_domain(&mut self, domain: &str) -> u16 {
        if let Some(index) = self.base_domains.iter().position(|listed| listed.as_deref() == Some(domain)) {
            return u16::try_from(index + 1).unwrap();
        }
        self.base_domains.push(Some(domain.to_owned()));
        self.change(|_| {});
        u16::try_from(self.base_domains.len()).unwrap()
    }

    pub(crate) fn remove_domain(&mut self, index: u16) {
        self.base_domains[usize::from(index) - 1] = None;
        self.change(|_| {});
    }

    pub(crate) fn key_epoch(&self, token: TokenId) -> u32 {
        self.state().nodes.get(&token).map_or(0, |known| known.node.key_epoch)
    }

    /// Key epoch and endpoint epoch.
    pub(crate) fn epochs(&self, token: TokenId) -> (u32, u32) {
        self.state().nodes.get(&token).map_or((0, 0), |known| (known.node.key_epoch, known.node.endpoint_epoch))
    }

    /// Drops the peer, clears the binding and spends the key epoch, as every way of leaving does.
    pub(crate) fn leave(&mut self, token: TokenId, also: impl FnOnce(&mut NodeRecord)) {
        if !self.state().nodes.contains_key(&token) {
            return;
        }
        self.change(|state| {
            let known = state.nodes.get_mut(&token).unwrap();
            known.peer = None;
            (known.node.instance, known.node.member_address, known.node.active) = (None, None, false);
            known.node.key_epoch += 1;
            also(&mut known.node);
        });
    }

    pub(crate) fn revoke(&mut self, token: TokenId) {
        self.leave(token, |node| node.revoked = true);
    }

    pub(crate) fn reinstate(&mut self, token: TokenId) {
        if self.state().nodes.get(&token).is_some_and(|known| known.node.revoked) {
            self.change(|state| state.nodes.get_mut(&token).unwrap().node.revoked = false);
        }
    }

    /// What an honest endpoint answers to the agent of `instance`.
    pub(crate) fn read(&self, instance: InstanceId, own_token: Option<TokenId>) -> Registry {
        let state = self.state();
        let peers = state.nodes.values().filter_map(|known| known.peer.clone()).collect();
        let concerns = |node: &NodeRecord| node.instance == Some(instance) || Some(node.token) == own_token;
        let mut nodes: Vec<_> =
            state.nodes.values().map(|known| known.node.clone()).filter(|node| concerns(node)).collect();
        // `getNode` answers for every token, minted or not.
        let unminted = own_token.filter(|token| !state.nodes.contains_key(token));
        nodes.extend(unminted.map(NodeRecord::unminted));
        let registry = self.cluster.registry(self.head(), peers, nodes);
        let (block, base_domains) = (block(self.head(), self.branch), self.base_domains.clone());
        Registry { block, base_domains, epoch: state.epoch, finalized: state.finalized, ..registry }
    }

    pub(crate) fn proof(&self, token: TokenId, block: u64) -> Option<Proof> {
        self.proofs.get(&(token, block)).cloned()
    }
}
