//! A dstack cluster with known keys: makes signed registrations, and the records and registries a contract would show.

use std::net::{Ipv4Addr, SocketAddr};

use alloy_primitives::keccak256;
use k256::ecdsa::SigningKey;
use mesh_core::{
    dev_url::DevUrls,
    id::{Address, AppId, B256, BlockRef, InstanceId, MemberKey, TlsKey, TokenId, WireguardKey},
    network::MeshNetwork,
    proof::{Anchors, VerifiedPeer, verify},
    registration::{Domain, NODE_KEY_PURPOSE, NetworkType, Proof, Registration, SignatureChain},
    registry::{NodeRecord, PeerRecord, Registry},
};

/// The development chain, whose blocks do not age.
pub(crate) const CHAIN: u64 = mesh_core::freshness::DEVELOPMENT_CHAIN;
pub(crate) const OWNER: Address = Address::repeat_byte(0x99);

/// KMS root, app key and contract of one cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) root: SigningKey,
    pub(crate) app: SigningKey,
    pub(crate) app_id: AppId,
    pub(crate) domain: Domain,
}

impl Cluster {
    /// The synthetic vector's root and app.
    pub(crate) fn new() -> Self {
        Self::with(signing_key("0101010101010101010101010101010101010101010101010101010101010101"), AppId([0x11; 20]))
    }

    /// The same app as another KMS would issue it.
    pub(crate) fn foreign() -> Self {
        let root = signing_key("0707070707070707070707070707070707070707070707070707070707070707");
        Self::with(root, Self::new().app_id)
    }

    /// Another root, or another app of the same root.
    pub(crate) fn with(root: SigningKey, app_id: AppId) -> Self {
        let app = SigningKey::from_slice(keccak256([&root.to_bytes()[..], &app_id.0].concat()).as_slice()).unwrap();
        let domain = Domain { chain_id: CHAIN, contract: Address::repeat_byte(0xcc) };
        Self { root, app, app_id, domain }
    }

    pub(crate) fn anchors(&self) -> Anchors {
        Anchors { kms_roots: vec![address(&self.root)], app_ids: vec![self.app_id] }
    }

    pub(crate) fn node_key(&self, instance: InstanceId) -> SigningKey {
        SigningKey::from_slice(keccak256([&self.app.to_bytes()[..], &instance.0].concat()).as_slice()).unwrap()
    }

    /// As guest API v0 gives it.
    pub(crate) fn chain(&self, node_key: &SigningKey) -> SignatureChain {
        let node_message = format!("{NODE_KEY_PURPOSE}:{}", hex::encode(compressed(node_key)));
        self.chain_of(node_key, node_message.as_bytes())
    }

    /// The chain in which the app key signs this about the node key.
    pub(crate) fn chain_of(&self, node_key: &SigningKey, node_message: &[u8]) -> SignatureChain {
        let app_message = [b"dstack-kms-issued:".as_slice(), &self.app_id.0, &compressed(&self.app)].concat();
        SignatureChain {
            node_key: coordinates(node_key),
            app_key: coordinates(&self.app),
            app_signature: sign(&self.app, keccak256(node_message)),
            kms_signature: sign(&self.root, keccak256(app_message)),
            app_id: self.app_id,
        }
    }

    pub(crate) fn prove(&self, registration: Registration) -> Proof {
        self.prove_with(registration, &member_secret(registration.instance))
    }

    /// The same, signed by another member key than the instance's own.
    pub(crate) fn prove_with(&self, registration: Registration, member: &SigningKey) -> Proof {
        let node_key = self.node_key(registration.instance);
        let digest = registration.digest(&self.domain);
        let (node_signature, member_signature) = (sign(&node_key, digest), sign(member, digest));
        Proof { registration, chain: self.chain(&node_key), node_signature, member_signature }
    }

    /// The same, as contracts without TLS keys had it signed.
    pub(crate) fn prove_formerly(&self, registration: Registration) -> Proof {
        let digest = registration.former_digest(&self.domain).unwrap();
        let node_key = self.node_key(registration.instance);
        let member_signature = sign(&member_secret(registration.instance), digest);
        Proof { node_signature: sign(&node_key, digest), member_signature, ..self.prove(registration) }
    }

    /// The record the contract would hold after this registration in this block.
    pub(crate) fn record(&self, registration: &Registration, registered_block: u64) -> PeerRecord {
        self.record_behind(registration, &[Some(GATEWAY.to_owned())], registered_block)
    }

    /// The same of a contract with other base domains.
    pub(crate) fn record_behind(
        &self,
        registration: &Registration,
        base_domains: &[Option<String>],
        registered_block: u64,
    ) -> PeerRecord {
        PeerRecord::registered(registration, base_domains, address(&self.root), self.app_id, registered_block)
    }

    /// Signs and verifies a registration as made in block 10.
    pub(crate) fn peer(&self, registration: Registration) -> VerifiedPeer {
        let record = self.record(&registration, 10);
        verify(&record, &self.prove(registration), &self.anchors(), &self.domain).unwrap()
    }

    pub(crate) fn registry(&self, number: u64, peers: Vec<PeerRecord>, own_nodes: Vec<NodeRecord>) -> Registry {
        Registry {
            domain: self.domain,
            block: block(number, 0),
            finalized: None,
            epoch: 1,
            name: "test".to_owned(),
            network: network(),
            base_domains: vec![Some(GATEWAY.to_owned()), None],
            peers,
            dev_urls: DevUrls::new(),
            own_nodes,
        }
    }
}

/// The first base domain.
pub(crate) const GATEWAY: &str = "gw.example";

/// A node's TLS key.
pub(crate) fn tls_key(id: u32) -> TlsKey {
    TlsKey(keccak256([&b"tls"[..], &id.to_be_bytes()].concat()).0)
}

/// The registration of the node whose instance, key and endpoint follow from its token.
pub(crate) fn registration(id: u32) -> Registration {
    Registration {
        token: token(id),
        instance: instance(id),
        member_address: member_address(id),
        wireguard_key: key(id),
        tls_key: None,
        key_epoch: 1,
        network_type: NetworkType::Wireguard,
        endpoint: Some(endpoint(id)),
        gateway: None,
        deadline: 2_000_000_000,
    }
}

/// A minted token bound to the node of the same number, not registered.
pub(crate) fn bound(id: u32) -> NodeRecord {
    NodeRecord { owner: Some(OWNER), instance: Some(instance(id)), ..NodeRecord::unminted(token(id)) }
}

pub(crate) fn network() -> MeshNetwork {
    MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap()
}

/// A block of a branch: its hash encodes both.
pub(crate) fn block(number: u64, branch: u8) -> BlockRef {
    let hash = keccak256([&number.to_be_bytes()[..], &[branch]].concat());
    BlockRef { number, hash, timestamp: 1_700_000_000 + number }
}

pub(crate) fn token(id: u32) -> TokenId {
    TokenId::new(id).unwrap()
}

pub(crate) fn instance(id: u32) -> InstanceId {
    match u8::try_from(id) {
        Ok(id) => InstanceId([id; 20]),
        Err(_) => InstanceId(*keccak256(id.to_be_bytes()).first_chunk().unwrap()),
    }
}

pub(crate) fn key(id: u32) -> WireguardKey {
    let mut bytes = keccak256(id.to_be_bytes()).0;
    bytes[31] &= 0x3f;
    WireguardKey(bytes)
}

/// What an instance drew at random: nothing of the cluster reveals it.
pub(crate) fn member_secret(instance: InstanceId) -> SigningKey {
    SigningKey::from_slice(keccak256([b"drawn by ".as_slice(), &instance.0].concat()).as_slice()).unwrap()
}

pub(crate) fn member_address(id: u32) -> Address {
    address(&member_secret(instance(id)))
}

pub(crate) fn member_key(id: u32) -> MemberKey {
    MemberKey(compressed(&member_secret(instance(id))))
}

pub(crate) fn endpoint(id: u32) -> SocketAddr {
    let [_, _, high, low] = id.to_be_bytes();
    SocketAddr::from(([192, 0, 2 + high, low], 51821))
}

pub(crate) fn signing_key(digits: &str) -> SigningKey {
    SigningKey::from_slice(&hex::decode(digits).unwrap()).unwrap()
}

pub(crate) fn sign(key: &SigningKey, digest: B256) -> [u8; 65] {
    let (signature, recovery) = key.sign_prehash_recoverable(digest.as_slice()).unwrap();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = recovery.to_byte();
    bytes
}

pub(crate) fn address(key: &SigningKey) -> Address {
    Address::from_raw_public_key(&coordinates(key))
}

pub(crate) fn coordinates(key: &SigningKey) -> [u8; 64] {
    key.verifying_key().to_encoded_point(false).as_bytes()[1..].try_into().unwrap()
}

pub(crate) fn compressed(key: &SigningKey) -> [u8; 33] {
    key.verifying_key().to_encoded_point(true).as_bytes().try_into().unwrap()
}
