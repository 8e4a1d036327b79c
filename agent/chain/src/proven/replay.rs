//! What the contract contains after some changes, made of what it contained before and of the events since: nothing of it is believed
//! unless all of them together lead to the history that is proved.

use alloy_primitives::{B256, FixedBytes, U256, keccak256};
use alloy_sol_types::{SolEvent, SolValue as _};
use mesh_contract::{DstackClusterNFT as events, IDstackClusterNFT as contract};
use mesh_core::{
    id::TokenId,
    proof::{Anchors, Proved},
    registration::{Domain, EndpointUpdate, Gateway, Proof, Registration, SignedGateway},
};

use super::{
    contents::{Contents, For},
    history::History,
};
use crate::Log;

/// Changes of what agents do not read here.
const HARMLESS: [B256; 5] = [
    events::LeaderElected::SIGNATURE_HASH,
    events::VoteCast::SIGNATURE_HASH,
    events::ClusterConfigUpdated::SIGNATURE_HASH,
    events::MintingPolicyUpdated::SIGNATURE_HASH,
    events::RegistrationsPaused::SIGNATURE_HASH,
];
/// Changes of what is trusted, of where gateways are and of development: rare, and read from storage.
const OTHERS: [B256; 10] = [
    events::MeshNetworkFixed::SIGNATURE_HASH,
    events::KmsRootAdded::SIGNATURE_HASH,
    events::KmsRootRemoved::SIGNATURE_HASH,
    events::AppIdAdded::SIGNATURE_HASH,
    events::AppIdRemoved::SIGNATURE_HASH,
    events::BaseDomainAdded::SIGNATURE_HASH,
    events::BaseDomainRemoved::SIGNATURE_HASH,
    events::DevModeSet::SIGNATURE_HASH,
    events::DevUrlSet::SIGNATURE_HASH,
    events::VotesLapsed::SIGNATURE_HASH,
];

/// Why events do not tell what the contract contains: then it is read from its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReplayed {
    /// One is missing, altered or invented, or is of another fork.
    #[error("the events do not lead to the proved history")]
    Differs,
    /// A change of more than other nodes' registrations: of what is trusted, or of the reader's own tokens.
    #[error("a change is read from storage")]
    Other,
}

/// The contents that a history leads to.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) contents: Contents,
    /// The registrations on the way, by token and block. Their signatures hold below the KMS root and app id that the contract accepted.
    pub(crate) registrations: Vec<(TokenId, u64, Proof)>,
}

/// Applies the events since `before`, in their order, up to a proved history.
///
/// # Errors
/// [`NotReplayed`]: nothing is known of what came after `before`.
pub(crate) fn replay(
    before: &Contents,
    domain: &Domain,
    reader: For,
    logs: &[Log],
    goal: History,
) -> Result<Replayed, NotReplayed> {
    if before.dev_mode {
        // A token may have a URL that counts again with its next registration.
        return Err(NotReplayed::Other);
    }
    let mut replay = Replay { contents: before.clone(), domain, reader, registered: Vec::new() };
    for log in logs {
        // No more than this are changes, whatever comes.
        if replay.contents.history.epoch >= goal.epoch {
            break;
        }
        replay.apply(log)?;
    }
    let Replay { contents, registered, .. } = replay;
    // Before this, everything is an endpoint's word.
    if contents.history != goal {
        return Err(NotReplayed::Differs);
    }
    let registrations = registered.into_iter().filter_map(|event| sound(event, domain)).collect();
    Ok(Replayed { contents, registrations })
}

struct Replay<'a> {
    contents: Contents,
    domain: &'a Domain,
    reader: For,
    registered: Vec<(events::PeerRegistered, u64)>,
}

impl Replay<'_> {
    fn apply(&mut self, log: &Log) -> Result<(), NotReplayed> {
        match *log.topics.first().ok_or(NotReplayed::Differs)? {
            events::PeerRegistered::SIGNATURE_HASH => self.register(log),
            events::PeerEndpointUpdated::SIGNATURE_HASH => self.update_endpoint(log),
            events::NodeCleared::SIGNATURE_HASH => {
                let token = decode::<events::NodeCleared>(log)?.tokenId;
                self.must_be_anothers(token, FixedBytes::ZERO)?;
                if let Ok(index) = self.index(token) {
                    self.contents.peers.remove(index);
                    self.contents.dev_urls.remove(index);
                }
                self.advance(static_change(log)?)
            }
            events::NodeMinted::SIGNATURE_HASH => {
                let minted = decode::<events::NodeMinted>(log)?;
                self.must_be_anothers(minted.tokenId, minted.instanceId)?;
                self.advance(static_change(log)?)
            }
            events::NodeBound::SIGNATURE_HASH => {
                let bound = decode::<events::NodeBound>(log)?;
                self.must_be_anothers(bound.tokenId, bound.instanceId)?;
                self.advance(static_change(log)?)
            }
            events::NodeReinstated::SIGNATURE_HASH => {
                self.must_be_anothers(decode::<events::NodeReinstated>(log)?.tokenId, FixedBytes::ZERO)?;
                self.advance(static_change(log)?)
            }
            kind if HARMLESS.contains(&kind) => self.advance(static_change(log)?),
            kind if OTHERS.contains(&kind) => Err(NotReplayed::Other),
            // An event of ERC-721 or of the boot gate: no change of the epoch.
            _ => Ok(()),
        }
    }

    fn register(&mut self, log: &Log) -> Result<(), NotReplayed> {
        let event = decode::<events::PeerRegistered>(log)?;
        let block = log.block_number.ok_or(NotReplayed::Differs)?;
        let registration = Registration::try_from(event.registration.clone()).map_err(|_| NotReplayed::Differs)?;
        let (topic, digest) = (events::PeerRegistered::SIGNATURE_HASH, registration.digest(self.domain));
        let change = (topic, event.tokenId, digest, event.kmsRoot, event.chain.appId, U256::from(block));
        self.must_be_anothers(event.tokenId, event.registration.instanceId)?;
        let given = &event.registration;
        let place = self.listed(registration.gateway)?;
        let peer = contract::Peer {
            tokenId: event.tokenId,
            instanceId: given.instanceId,
            memberAddress: given.memberAddress,
            wireguardKey: given.wireguardKey,
            tlsKey: given.tlsKey,
            keyEpoch: given.keyEpoch,
            endpointEpoch: 0,
            networkType: given.networkType,
            endpointAddress: given.endpointAddress,
            endpointPort: given.endpointPort,
            gatewayDomain: place.domain,
            gatewayPort: place.port,
            kmsRoot: event.kmsRoot,
            appId: event.chain.appId,
            registeredBlock: block,
        };
        match self.index(event.tokenId) {
            Ok(index) => self.contents.peers[index] = peer,
            Err(index) => {
                self.contents.peers.insert(index, peer);
                self.contents.dev_urls.insert(index, String::new());
            }
        }
        let change = keccak256(change.abi_encode());
        self.registered.push((event, block));
        self.advance(change)
    }

    fn update_endpoint(&mut self, log: &Log) -> Result<(), NotReplayed> {
        let event = decode::<events::PeerEndpointUpdated>(log)?;
        let update = EndpointUpdate::try_from(event.update.clone()).map_err(|_| NotReplayed::Differs)?;
        let (topic, digest) = (events::PeerEndpointUpdated::SIGNATURE_HASH, update.digest(self.domain));
        self.must_be_anothers(event.tokenId, FixedBytes::ZERO)?;
        let index = self.index(event.tokenId).map_err(|_| NotReplayed::Differs)?;
        let place = self.listed(update.gateway)?;
        let (peer, given) = (&mut self.contents.peers[index], event.update);
        peer.endpointEpoch = given.endpointEpoch;
        (peer.endpointAddress, peer.endpointPort) = (given.endpointAddress, given.endpointPort);
        (peer.gatewayDomain, peer.gatewayPort) = (place.domain, place.port);
        self.advance(keccak256((topic, event.tokenId, digest).abi_encode()))
    }

    /// The index of the base domain that a node named, with its port; zeros for no gateway. Base domains do not change in a replay.
    fn listed(&self, gateway: Option<SignedGateway>) -> Result<Gateway, NotReplayed> {
        let Some(gateway) = gateway else { return Ok(Gateway { domain: 0, port: 0 }) };
        let base_domains = mesh_contract::base_domains(self.contents.base_domains.clone());
        gateway.listed(&base_domains).ok_or(NotReplayed::Differs)
    }

    fn advance(&mut self, change: B256) -> Result<(), NotReplayed> {
        self.contents.history = self.contents.history.then(change);
        Ok(())
    }

    /// Of its own tokens the reader wants more than an event says.
    fn must_be_anothers(&self, token: U256, instance: FixedBytes<20>) -> Result<(), NotReplayed> {
        let own = self.reader.own_token.is_some_and(|own| U256::from(own.get()) == token)
            || instance == FixedBytes(self.reader.instance.0)
            || self.contents.own_nodes.iter().any(|node| node.tokenId == token);
        if own { Err(NotReplayed::Other) } else { Ok(()) }
    }

    /// Where a token's peer is, or would be.
    fn index(&self, token: U256) -> Result<usize, usize> {
        self.contents.peers.binary_search_by_key(&token, |peer| peer.tokenId)
    }
}

/// What goes into the history of an event whose fields are all of one word: its topics, and its data but for the epoch at the end.
fn static_change(log: &Log) -> Result<B256, NotReplayed> {
    let length = log.data.len().checked_sub(32).ok_or(NotReplayed::Differs)?;
    let topics = log.topics.iter().flat_map(|topic| topic.0);
    Ok(keccak256(topics.chain(log.data[..length].iter().copied()).collect::<Vec<u8>>()))
}

fn decode<E: SolEvent>(log: &Log) -> Result<E, NotReplayed> {
    E::decode_log_data(&log.content()).map_err(|_| NotReplayed::Differs)
}

/// The proof of a registration that the contract accepted, unless the endpoint altered its signatures: the history does not cover them.
fn sound((event, block): (events::PeerRegistered, u64), domain: &Domain) -> Option<(TokenId, u64, Proof)> {
    let anchors = Anchors { kms_roots: vec![event.kmsRoot], app_ids: vec![event.chain.appId.into()] };
    let proof = Proof::try_from(event).ok()?;
    Proved::check(proof.clone(), &anchors, domain).ok()?;
    Some((proof.registration.token, block, proof))
}

#[cfg(test)]
mod tests;
