//! One endpoint's view of the contract at one block hash.

use std::time::Duration;

use alloy_primitives::{FixedBytes, U256};
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::{
    dev_url::{DevUrl, DevUrls},
    id::{Address, BlockRef, InstanceId, TokenId},
    network::MeshNetwork,
    place,
    registration::{Domain, NetworkType},
    registry::{NodeRecord, PeerRecord, Registry},
    text::is_hostile,
};

use super::reader::CHAIN_FOR;
use crate::{
    Header, RpcError, Source,
    proven::Contents,
    source::{CALL, PROOF},
};

/// Peers asked for at once.
const PAGE: u64 = 500;
/// Tokens that are looked at, in one call, for those of this instance: about 25 million gas, of which endpoints allow 50 million or more.
const TOKENS_AT_ONCE: u64 = 10_000;
/// A larger mesh has no development URLs: the contract returns all endpoints at once, and each RPC endpoint has its own limit of what
/// a call may take.
pub(super) const MAX_DEV_PEERS: usize = 1000;
/// Longest mesh name that is kept, characters.
const MAX_NAME: usize = 128;

/// What is read, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The cluster contract.
    pub contract: Address,
    /// The CVM whose tokens are looked for.
    pub instance: InstanceId,
}

/// What a contract is made with and no call changes: asked for until it was agreed on.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    network: MeshNetwork,
    name: String,
}

impl Fixed {
    pub(super) fn of(agreed: &Registry) -> Self {
        Self { network: agreed.network, name: agreed.name.clone() }
    }

    pub(super) const fn network(&self) -> MeshNetwork {
        self.network
    }

    async fn read(source: &Source, subject: &Subject, block: BlockRef) -> Result<Self, RpcError> {
        let (network, name) = tokio::try_join!(
            source.call(subject.contract, block.hash, contract::meshNetworkCall {}),
            source.call(subject.contract, block.hash, contract::nameCall {}),
        )?;
        let network = mesh_contract::mesh_network(network.base, network.prefixLength)
            .map_err(|error| RpcError::invalid_response(CALL, &format!("meshNetwork(): {error}")))?;
        Ok(Self { network, name: shown(&name) })
    }
}

/// Reads the registry at `head`, of the chain that `chain_id` names, which it is asked for with the age that the answer may have.
/// Where `previous` (an earlier read from the same endpoint) is of the same epoch and its block is still canonical, its content is
/// the answer: every visible change raises the epoch. The record of `own_token` is wanted even when it is bound to no instance.
pub(super) async fn read(
    source: &Source,
    subject: &Subject,
    own_token: Option<TokenId>,
    head: Header,
    previous: Option<&Registry>,
    fixed: Option<Fixed>,
    chain_id: impl AsyncFnOnce(Duration) -> Result<u64, RpcError>,
) -> Result<Registry, RpcError> {
    let (epoch, finalized) =
        tokio::join!(source.call(subject.contract, head.hash, contract::epochCall {}), source.finalized());
    let epoch = match epoch {
        Ok(epoch) => epoch,
        Err(error) => return Err(without_code(source, subject, error).await),
    };
    let finalized = finalized.map(|number| number.min(head.number));
    let block = BlockRef { number: head.number, hash: head.hash, timestamp: head.timestamp };
    let holds_own =
        |previous: &Registry| own_token.is_none_or(|token| previous.own_nodes.iter().any(|node| node.token == token));
    let same =
        |previous: &&Registry| previous.epoch == epoch && previous.block.number <= head.number && holds_own(previous);
    if let Some(previous) = previous.filter(same)
        && is_canonical(source, previous.block, head).await?
    {
        let domain = Domain { chain_id: chain_id(CHAIN_FOR).await?, ..previous.domain };
        return Ok(Registry { domain, block, finalized, ..previous.clone() });
    }
    if let Some(previous) = previous.filter(|previous| epoch < previous.epoch && previous.block.number <= head.number)
        && is_canonical(source, previous.block, head).await?
    {
        let (then, before) = (previous.block.number, previous.epoch);
        let reason = format!(
            "epoch() at block {} is {epoch}, and was {before} at block {then}, which is still there: the endpoint serves an old state",
            head.number
        );
        return Err(RpcError::invalid_response(CALL, &reason));
    }
    // First of all: it says how many tokens there can be, and so how much will be read.
    let fixed = match fixed {
        Some(fixed) => fixed,
        None => Fixed::read(source, subject, block).await?,
    };
    // What is asked while nothing happens need not be asked again when something does.
    let chain_id = chain_id(CHAIN_FOR * 2);
    let (content, chain_id) = tokio::try_join!(read_whole(source, subject, own_token, block, &fixed), chain_id)?;
    let Content { base_domains, peers, dev_urls, own_nodes } = content;
    // Some nodes answer a question about their head from a state that has moved on meanwhile. An epoch of one block over peers
    // of another would be believed until the next change on chain.
    let again = source.call(subject.contract, head.hash, contract::epochCall {}).await?;
    if again != epoch {
        let reason =
            format!("epoch() at block {} was {epoch}, and then {again}: the endpoint mixes two blocks", head.number);
        return Err(RpcError::invalid_response(CALL, &reason));
    }
    Ok(Registry {
        domain: Domain { chain_id, contract: subject.contract },
        block,
        finalized,
        epoch,
        name: fixed.name,
        network: fixed.network,
        base_domains,
        peers,
        dev_urls,
        own_nodes,
    })
}

/// What calls change.
struct Content {
    base_domains: Vec<Option<String>>,
    peers: Vec<PeerRecord>,
    dev_urls: DevUrls,
    own_nodes: Vec<NodeRecord>,
}

async fn read_whole(
    source: &Source,
    subject: &Subject,
    own_token: Option<TokenId>,
    block: BlockRef,
    fixed: &Fixed,
) -> Result<Content, RpcError> {
    let network = fixed.network;
    let (dev_mode, domains, peers, own_nodes) = tokio::try_join!(
        source.call(subject.contract, block.hash, contract::devModeCall {}),
        source.call(subject.contract, block.hash, contract::baseDomainsCall {}),
        peers(source, subject, block, network),
        own_nodes(source, subject, own_token, block, network),
    )?;
    let base_domains = base_domains(domains)?;
    let dev_urls = if dev_mode && peers.len() <= MAX_DEV_PEERS {
        let endpoints = source.call(subject.contract, block.hash, contract::getPeerEndpointsCall {}).await?;
        dev_urls(&peers, endpoints, network, &base_domains)?
    } else {
        DevUrls::new()
    };
    Ok(Content { base_domains, peers, dev_urls, own_nodes })
}

/// The registry that proved contents are. Like a view's answer, they are refused where no cluster contract says such a thing.
pub(super) fn from_proved(
    contents: &Contents,
    domain: Domain,
    block: BlockRef,
    finalized: Option<u64>,
) -> Result<Registry, RpcError> {
    let refuse = |error: &dyn std::fmt::Display| RpcError::invalid_response(PROOF, &error.to_string());
    let (base, prefix_length) = contents.network;
    let network = mesh_contract::mesh_network(base, prefix_length).map_err(|error| refuse(&error))?;
    let record = |peer: &mesh_contract::IDstackClusterNFT::Peer| {
        let record = PeerRecord::try_from(peer.clone()).map_err(|error| refuse(&error))?;
        fits(network, record.token).map_err(|error| refuse(&error))?;
        Ok(record)
    };
    let peers = contents.peers.iter().map(record).collect::<Result<Vec<_>, RpcError>>()?;
    let own = |node: &mesh_contract::IDstackClusterNFT::Node| {
        NodeRecord::try_from(node.clone()).map_err(|error| refuse(&error))
    };
    let own_nodes = contents.own_nodes.iter().map(own).collect::<Result<Vec<_>, RpcError>>()?;
    let base_domains = base_domains(contents.base_domains.clone())?;
    let dev_urls = dev_urls(&peers, contents.dev_urls.clone(), network, &base_domains)?;
    let (epoch, name) = (contents.history.epoch, shown(&contents.name));
    Ok(Registry { domain, block, finalized, epoch, name, network, base_domains, peers, dev_urls, own_nodes })
}

/// Those that the contract has, removed ones as `None`.
fn base_domains(domains: Vec<String>) -> Result<Vec<Option<String>>, RpcError> {
    let domains = mesh_contract::base_domains(domains);
    if domains.iter().flatten().any(|domain| domain.chars().any(|c| c.is_whitespace() || is_hostile(c))) {
        return Err(RpcError::invalid_response(CALL, "baseDomains(): not the name of a host"));
    }
    Ok(domains)
}

/// The part of a mesh's name that can be shown.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !is_hostile(*c)).take(MAX_NAME).collect()
}

fn fits(network: MeshNetwork, token: TokenId) -> Result<(), String> {
    let fits = network.address_of(token).is_some();
    fits.then_some(()).ok_or_else(|| format!("token {token} does not fit into {}", network.network()))
}

/// Those of `endpoints` that are none of the contract's making. The view has one for each active peer, in the order of tokens.
fn dev_urls(
    peers: &[PeerRecord],
    endpoints: Vec<String>,
    network: MeshNetwork,
    base_domains: &[Option<String>],
) -> Result<DevUrls, RpcError> {
    let refuse = |why: &str| RpcError::invalid_response(CALL, &format!("getPeerEndpoints(): {why}"));
    if endpoints.len() != peers.len() {
        return Err(refuse(&format!("{} endpoints of {} peers", endpoints.len(), peers.len())));
    }
    let mut urls = DevUrls::new();
    for (peer, endpoint) in peers.iter().zip(endpoints) {
        let made = match peer.network_type {
            NetworkType::Wireguard => network.address_of(peer.token).map(|address| address.to_string()),
            NetworkType::TlsGateway => peer.gateway.and_then(|place| place::url(peer.instance, place, base_domains)),
        };
        if !endpoint.is_empty() && made.as_ref() != Some(&endpoint) {
            let url = DevUrl::try_from(endpoint).map_err(|_| refuse(&format!("token {} has no URL", peer.token)))?;
            urls.insert(peer.token, url);
        }
    }
    Ok(urls)
}

async fn is_canonical(source: &Source, block: BlockRef, head: Header) -> Result<bool, RpcError> {
    if block.number == head.number {
        return Ok(block.hash == head.hash);
    }
    if head.parent_hash == Some(block.hash) {
        return Ok(true);
    }
    Ok(source.header_at(block.number).await?.is_some_and(|header| header.hash == block.hash))
}

async fn peers(
    source: &Source,
    subject: &Subject,
    block: BlockRef,
    network: MeshNetwork,
) -> Result<Vec<PeerRecord>, RpcError> {
    let mut records: Vec<PeerRecord> = Vec::new();
    let mut pages = Pages::new("peers()", network, PAGE);
    while let Some(cursor) = pages.cursor() {
        let call = contract::peersCall { cursor, limit: U256::from(PAGE) };
        let answer = source.call(subject.contract, block.hash, call).await?;
        for peer in answer.page {
            let record = PeerRecord::try_from(peer)
                .map_err(|error| RpcError::invalid_response(CALL, &format!("peers(): {error}")))?;
            pages.take(record.token)?;
            records.push(record);
        }
        pages.turn(answer.next)?;
    }
    Ok(records)
}

async fn own_nodes(
    source: &Source,
    subject: &Subject,
    own_token: Option<TokenId>,
    block: BlockRef,
    network: MeshNetwork,
) -> Result<Vec<NodeRecord>, RpcError> {
    let mut own: Vec<NodeRecord> = Vec::new();
    let mut pages = Pages::new("nodesOf()", network, TOKENS_AT_ONCE);
    while let Some(cursor) = pages.cursor() {
        let (instance, limit) = (FixedBytes(subject.instance.0), U256::from(TOKENS_AT_ONCE));
        let call = contract::nodesOfCall { instanceId: instance, cursor, limit };
        let answer = source.call(subject.contract, block.hash, call).await?;
        for node in answer.page {
            let record = NodeRecord::try_from(node).map_err(|error| pages.refuse(&error.to_string()))?;
            if record.instance != Some(subject.instance) {
                return Err(pages.refuse("a token of another instance"));
            }
            pages.take(record.token)?;
            own.push(record);
        }
        pages.turn(answer.next)?;
    }
    let missing = own_token.filter(|token| own.iter().all(|record| record.token != *token));
    if let Some(token) = missing {
        let call = contract::getNodeCall { tokenId: U256::from(token.get()) };
        let node = source.call(subject.contract, block.hash, call).await?;
        own.push(
            NodeRecord::try_from(node)
                .map_err(|error| RpcError::invalid_response(CALL, &format!("getNode(): {error}")))?,
        );
    }
    own.sort_by_key(|record| record.token);
    Ok(own)
}

/// The state of reading a paged view. Tokens ascend, lie within the mesh network, and a page that is not the last one has passed
/// as many of them as it may: so a read has an end, and nothing in it is there twice.
struct Pages {
    view: &'static str,
    network: MeshNetwork,
    /// Tokens that a page looks at.
    limit: u64,
    cursor: U256,
    last: Option<TokenId>,
}

impl Pages {
    const fn new(view: &'static str, network: MeshNetwork, limit: u64) -> Self {
        Self { view, network, limit, cursor: U256::ONE, last: None }
    }

    /// Where the next page begins; `None` after the last one.
    fn cursor(&self) -> Option<U256> {
        (!self.cursor.is_zero()).then_some(self.cursor)
    }

    fn take(&mut self, token: TokenId) -> Result<(), RpcError> {
        if self.last.is_some_and(|last| last >= token) {
            return Err(self.refuse("not in the order of tokens"));
        }
        fits(self.network, token).map_err(|why| self.refuse(&why))?;
        self.last = Some(token);
        Ok(())
    }

    fn turn(&mut self, next: U256) -> Result<(), RpcError> {
        let capacity = U256::from(self.network.capacity());
        if !next.is_zero() && (next < self.cursor.saturating_add(U256::from(self.limit)) || next > capacity) {
            return Err(self.refuse("pages without end"));
        }
        self.cursor = next;
        Ok(())
    }

    fn refuse(&self, why: &str) -> RpcError {
        RpcError::invalid_response(CALL, &format!("{}: {why}", self.view))
    }
}

/// Says so when a call failed because there is no contract at all.
async fn without_code(source: &Source, subject: &Subject, error: RpcError) -> RpcError {
    match source.has_code(subject.contract).await {
        Ok(false) => RpcError::invalid_response(
            CALL,
            &format!("there is no contract at {}: wrong address, or wrong chain", subject.contract),
        ),
        Ok(true) | Err(_) => error,
    }
}
