//! The contract's state in one block, and what each transaction makes of it: just enough of `DstackClusterNFT` to give agents
//! something to follow.

use std::collections::BTreeMap;

use mesh_core::{
    id::{BlockRef, InstanceId, TokenId, WireguardKey},
    registration::{EndpointUpdate, NetworkType, Registration, SignedGateway},
    registry::{NodeRecord, PeerRecord, Registry},
};

use crate::cluster::{GATEWAY_DOMAIN, OWNER, cluster, network};

/// Every token, and the contract's epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    nodes: BTreeMap<TokenId, Token>,
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone)]
struct Token {
    node: NodeRecord,
    peer: Option<PeerRecord>,
}

/// A change of the contract that a node or the operator asks for.
#[derive(Debug, Clone)]
pub(crate) enum Transaction {
    /// Mints the token where it is not minted, and binds it to the instance.
    Bind(TokenId, InstanceId),
    Register(Registration),
    UpdateEndpoint(EndpointUpdate),
    Deactivate(TokenId),
    Revoke(TokenId),
    Reinstate(TokenId),
    Burn(TokenId),
}

/// How a transaction changed who is a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Joined(TokenId, WireguardKey),
    Left(TokenId, WireguardKey),
    Other,
}

impl State {
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerRecord> {
        self.nodes.values().filter_map(|token| token.peer.as_ref())
    }

    pub(crate) fn peer(&self, token: TokenId) -> Option<&PeerRecord> {
        self.nodes.get(&token)?.peer.as_ref()
    }

    /// Whether the token is minted and bound to this instance.
    pub(crate) fn is_bound(&self, token: TokenId, instance: InstanceId) -> bool {
        self.nodes.get(&token).is_some_and(|known| known.node.instance == Some(instance))
    }

    /// Executes a transaction in the block of this number and time; `None` where the contract reverts.
    pub(crate) fn execute(&mut self, transaction: &Transaction, number: u64, unix: u64) -> Option<Effect> {
        let effect = match transaction {
            Transaction::Bind(token, instance) => self.bind(*token, *instance),
            Transaction::Register(registration) => self.register(registration, number, unix),
            Transaction::UpdateEndpoint(update) => self.update_endpoint(update, unix),
            Transaction::Deactivate(token) => self.leave(*token, |_| {}),
            Transaction::Revoke(token) => self.leave(*token, |node| node.revoked = true),
            Transaction::Burn(token) => self.leave(*token, |node| node.owner = None),
            Transaction::Reinstate(token) => self.reinstate(*token),
        }?;
        self.epoch += 1;
        Some(effect)
    }

    fn bind(&mut self, token: TokenId, instance: InstanceId) -> Option<Effect> {
        let known = self.nodes.get(&token);
        let refuses = |known: &Token| known.peer.is_some() || (known.node.revoked && known.node.owner.is_some());
        if known.is_some_and(refuses) {
            return None;
        }
        let key_epoch = known.map_or(0, |known| known.node.key_epoch);
        let node =
            NodeRecord { owner: Some(OWNER), instance: Some(instance), key_epoch, ..NodeRecord::unminted(token) };
        self.nodes.insert(token, Token { node, peer: None });
        Some(Effect::Other)
    }

    /// As `registerPeer` does. The signatures are checked by the agents alone: a node signs for itself here.
    fn register(&mut self, registration: &Registration, number: u64, unix: u64) -> Option<Effect> {
        let known = self.nodes.get_mut(&registration.token)?;
        let member = registration.member_address;
        let fits = known.node.owner.is_some()
            && takes_place(registration.network_type, registration.gateway)
            && !known.node.revoked
            && known.node.instance == Some(registration.instance)
            && registration.key_epoch == known.node.key_epoch + 1
            && registration.deadline >= unix
            && known.node.member_address.is_none_or(|fixed| fixed == member);
        if !fits {
            return None;
        }
        known.node.key_epoch = registration.key_epoch;
        (known.node.member_address, known.node.endpoint_epoch) = (Some(member), 0);
        known.node.active = true;
        known.peer = Some(record(registration, number));
        Some(Effect::Joined(registration.token, registration.wireguard_key))
    }

    fn update_endpoint(&mut self, update: &EndpointUpdate, unix: u64) -> Option<Effect> {
        let known = self.nodes.get_mut(&update.token)?;
        let peer = known.peer.as_mut()?;
        let fits = takes_place(peer.network_type, update.gateway)
            && update.deadline >= unix
            && update.key_epoch == known.node.key_epoch
            && update.endpoint_epoch == known.node.endpoint_epoch + 1;
        if !fits {
            return None;
        }
        known.node.endpoint_epoch = update.endpoint_epoch;
        let gateway = update.gateway.and_then(|gateway| gateway.listed(&base_domains()));
        (peer.endpoint, peer.gateway) = (update.endpoint, gateway);
        peer.endpoint_epoch = update.endpoint_epoch;
        Some(Effect::Other)
    }

    /// Drops the peer, clears the binding and spends the key epoch, as every way of leaving does.
    fn leave(&mut self, token: TokenId, also: impl FnOnce(&mut NodeRecord)) -> Option<Effect> {
        let known = self.nodes.get_mut(&token)?;
        let peer = known.peer.take();
        (known.node.instance, known.node.member_address, known.node.active) = (None, None, false);
        known.node.key_epoch += 1;
        also(&mut known.node);
        Some(peer.map_or(Effect::Other, |peer| Effect::Left(token, peer.wireguard_key)))
    }

    fn reinstate(&mut self, token: TokenId) -> Option<Effect> {
        let known = self.nodes.get_mut(&token).filter(|known| known.node.revoked)?;
        known.node.revoked = false;
        Some(Effect::Other)
    }

    /// What an honest endpoint answers to the agent of `instance`.
    pub(crate) fn read(
        &self,
        block: BlockRef,
        finalized: Option<u64>,
        instance: InstanceId,
        own: Option<TokenId>,
    ) -> Registry {
        let concerns = |node: &NodeRecord| node.instance == Some(instance) || Some(node.token) == own;
        let mut own_nodes: Vec<_> =
            self.nodes.values().map(|known| known.node.clone()).filter(|node| concerns(node)).collect();
        // The contract answers for every token, minted or not.
        own_nodes.extend(own.filter(|token| !self.nodes.contains_key(token)).map(NodeRecord::unminted));
        Registry {
            domain: cluster().domain,
            block,
            finalized,
            epoch: self.epoch,
            name: "simulated".to_owned(),
            network: network(),
            base_domains: base_domains().into(),
            peers: self.peers().cloned().collect(),
            dev_urls: Default::default(),
            own_nodes,
        }
    }
}

/// The record that the contract holds after this registration in the block of this number.
pub(crate) fn record(registration: &Registration, registered_block: u64) -> PeerRecord {
    PeerRecord::registered(registration, &base_domains(), cluster().root_address(), cluster().app_id, registered_block)
}

fn base_domains() -> [Option<String>; 1] {
    [Some(GATEWAY_DOMAIN.to_owned())]
}

/// A place names a domain that is listed, and a TLS node must have one.
fn takes_place(network_type: NetworkType, gateway: Option<SignedGateway>) -> bool {
    gateway.map_or(network_type == NetworkType::Wireguard, |gateway| gateway.listed(&base_domains()).is_some())
}
