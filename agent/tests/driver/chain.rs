//! A chain in memory: one registry, its proofs, and a purse.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use alloy_primitives::{B256, Bytes, U256};
use mesh_chain::{Mined, NotSubmitted, RequestCount, Standing};
use mesh_core::{
    agent::{ProofRequest, SourceReport},
    id::{Address, BlockRef, InstanceId, TlsKey, TokenId, WireguardKey},
    network::MeshNetwork,
    registration::{Domain, NetworkType, Proof, Registration, SignedGateway},
    registry::{NodeRecord, PeerRecord, Registry},
    status::Quorum,
    wei::Wei,
};
use p2p_agent::{
    identity::{Identity, signer::Signer},
    run::Chain,
};

/// The TLS key of a node.
pub(crate) fn tls_key(instance: InstanceId) -> TlsKey {
    TlsKey(alloy_primitives::keccak256(instance.0).0)
}

#[derive(Clone)]
pub(crate) struct ChainTwin(Arc<Mutex<Inner>>);

struct Inner {
    registry: Registry,
    proofs: BTreeMap<TokenId, Proof>,
    reachable: bool,
    /// Nothing is ever answered.
    hangs: bool,
    funded: bool,
    /// No transaction is taken yet.
    congested: bool,
    sent: usize,
    standing: Standing,
    /// The call data of the last transaction.
    last_sent: Option<Bytes>,
}

impl ChainTwin {
    pub(crate) fn new(contract: Address) -> Self {
        let registry = Registry {
            domain: Domain { chain_id: 31337, contract },
            block: BlockRef { number: 10, hash: B256::repeat_byte(10), timestamp: 1 },
            finalized: None,
            epoch: 1,
            name: "twin".to_owned(),
            network: MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap(),
            base_domains: Vec::new(),
            peers: Vec::new(),
            dev_urls: BTreeMap::new(),
            own_nodes: Vec::new(),
        };
        Self(Arc::new(Mutex::new(Inner {
            registry,
            proofs: BTreeMap::new(),
            reachable: true,
            hangs: false,
            funded: false,
            congested: false,
            sent: 0,
            standing: Standing { term: 0, leader: None },
            last_sent: None,
        })))
    }

    /// The leader, from now on.
    pub(crate) fn seat(&self, term: u32, leader: Option<(u32, Address)>) {
        let leader = leader.map(|(token, address)| (TokenId::new(token).unwrap(), address));
        self.inner().standing = Standing { term, leader };
    }

    /// The call data of the last transaction.
    pub(crate) fn last_sent(&self) -> Option<Bytes> {
        self.inner().last_sent.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Mints token `token` for an instance.
    pub(crate) fn mint(&self, token: u32, identity: &Identity) {
        let mut inner = self.inner();
        inner.registry.own_nodes.push(NodeRecord {
            owner: Some(Address::repeat_byte(0xee)),
            instance: Some(identity.instance),
            ..NodeRecord::unminted(TokenId::new(token).unwrap())
        });
        inner.next_block();
    }

    /// Registers a minted token, signed by its keys.
    pub(crate) fn register(&self, token: u32, identity: &Identity, key: WireguardKey) {
        let token = TokenId::new(token).unwrap();
        let registration = Registration {
            token,
            instance: identity.instance,
            member_address: identity.member.address(),
            wireguard_key: key,
            tls_key: None,
            key_epoch: 1,
            network_type: NetworkType::Wireguard,
            endpoint: Some(([192, 0, 2, u8::try_from(token.get()).unwrap()], 51821).into()),
            gateway: None,
            deadline: u64::MAX,
        };
        self.admit(registration, identity);
    }

    /// The same, as a node whose application is at that port behind the gateway of the first base domain.
    pub(crate) fn register_tls(&self, token: u32, identity: &Identity, port: u16) {
        let first = self.inner().registry.base_domains.iter().flatten().next().cloned();
        let registration = Registration {
            token: TokenId::new(token).unwrap(),
            instance: identity.instance,
            member_address: identity.member.address(),
            wireguard_key: WireguardKey([0; 32]),
            tls_key: Some(tls_key(identity.instance)),
            key_epoch: 1,
            network_type: NetworkType::TlsGateway,
            endpoint: None,
            gateway: Some(SignedGateway::named(&first.unwrap(), port)),
            deadline: u64::MAX,
        };
        self.admit(registration, identity);
    }

    fn admit(&self, registration: Registration, identity: &Identity) {
        let mut inner = self.inner();
        let token = registration.token;
        let digest = registration.digest(&inner.registry.domain);
        let (node_signature, member_signature) =
            (identity.sign(digest).unwrap(), identity.member.sign(digest).unwrap());
        let proof = Proof { registration, chain: identity.node_key().chain.clone(), node_signature, member_signature };
        inner.proofs.insert(token, proof);
        let block = inner.registry.block.number + 1;
        let base_domains = &inner.registry.base_domains;
        let record = PeerRecord::registered(&registration, base_domains, identity.kms_root, identity.app_id, block);
        inner.registry.peers.push(record);
        inner.registry.peers.sort_by_key(|peer| peer.token);
        let node = inner.registry.own_nodes.iter_mut().find(|node| node.token == token).unwrap();
        (node.active, node.key_epoch, node.member_address) = (true, 1, Some(identity.member.address()));
        inner.next_block();
    }

    pub(crate) fn set_dev_urls(&self, urls: &[(u32, &str)]) {
        let mut inner = self.inner();
        let of = |(token, url): &(u32, &str)| (TokenId::new(*token).unwrap(), url.parse().unwrap());
        inner.registry.dev_urls = urls.iter().map(of).collect();
        inner.next_block();
    }

    pub(crate) fn set_base_domains(&self, domains: &[Option<&str>]) {
        let mut inner = self.inner();
        inner.registry.base_domains = domains.iter().map(|domain| domain.map(str::to_owned)).collect();
        inner.next_block();
    }

    pub(crate) fn remove(&self, token: u32) {
        let mut inner = self.inner();
        inner.registry.peers.retain(|peer| peer.token.get() != token);
        inner.registry.own_nodes.retain(|node| node.token.get() != token);
        inner.next_block();
    }

    pub(crate) fn tamper_with_proof(&self, token: u32) {
        let mut inner = self.inner();
        let proof = inner.proofs.get_mut(&TokenId::new(token).unwrap()).unwrap();
        proof.registration.deadline -= 1;
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.inner().reachable = reachable;
    }

    pub(crate) fn hang(&self) {
        self.inner().hangs = true;
    }

    pub(crate) fn fund(&self) {
        self.inner().funded = true;
    }

    /// Lets transactions wait until it is over.
    pub(crate) fn congest(&self, congested: bool) {
        self.inner().congested = congested;
    }

    pub(crate) fn sent(&self) -> usize {
        self.inner().sent
    }
}

impl Inner {
    fn next_block(&mut self) {
        let block = &mut self.registry.block;
        block.number += 1;
        block.hash = B256::from(U256::from(block.number));
        self.registry.epoch += 1;
    }
}

impl Chain for ChainTwin {
    fn believe(&self, _: Option<MeshNetwork>) {}

    async fn read(&self, _: Option<TokenId>) -> (Result<Registry, String>, SourceReport) {
        if self.inner().hangs {
            std::future::pending::<()>().await;
        }
        let mut inner = self.inner();
        let have = usize::from(inner.reachable);
        let report =
            SourceReport { sources: Vec::new(), quorum: Quorum { need: 1, have }, disagree: false, other_code: None };
        if !inner.reachable {
            return (Err("no endpoint answers".to_owned()), report);
        }
        let epoch = inner.registry.epoch;
        inner.next_block();
        inner.registry.epoch = epoch;
        (Ok(inner.registry.clone()), report)
    }

    async fn proofs(&self, requests: Vec<ProofRequest>) -> Vec<(TokenId, Result<Box<Proof>, String>)> {
        let inner = self.inner();
        let answer = |token| match inner.proofs.get(&token).filter(|_| inner.reachable) {
            Some(proof) => Ok(Box::new(proof.clone())),
            None => Err("no such log".to_owned()),
        };
        requests.into_iter().map(|request| (request.token, answer(request.token))).collect()
    }

    async fn submit(&self, signer: &Signer, _: u64, calldata: Bytes) -> Result<B256, NotSubmitted> {
        while self.inner().congested {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut inner = self.inner();
        if !inner.funded {
            let (balance, needed) = (U256::ZERO, U256::from(1));
            return Err(NotSubmitted::NoFunds { address: signer.address(), balance, needed });
        }
        inner.sent += 1;
        inner.last_sent = Some(calldata.clone());
        Ok(alloy_primitives::keccak256(calldata))
    }

    async fn balance(&self, _: Address) -> Option<Wei> {
        let inner = self.inner();
        inner.reachable.then(|| Wei(U256::from(inner.funded)))
    }

    async fn mined(&self, transaction: B256) -> Option<Mined> {
        let inner = self.inner();
        let last = inner.last_sent.as_ref().map(alloy_primitives::keccak256);
        (last == Some(transaction)).then_some(Mined { block: inner.registry.block.number, succeeded: true })
    }

    async fn leader(&self) -> Result<Standing, String> {
        let inner = self.inner();
        if inner.reachable { Ok(inner.standing) } else { Err("no endpoint answers".to_owned()) }
    }

    fn requests(&self) -> Vec<RequestCount> {
        Vec::new()
    }

    async fn preflight(&self) -> Option<anyhow::Error> {
        None
    }
}
