//! A dstack cluster with known keys: the KMS, one app, and the keys of every node. Signatures are made once and remembered for all
//! runs of the process, because making them costs more than everything else in a short run.

use std::{cell::RefCell, collections::HashMap, net::Ipv4Addr, sync::OnceLock};

use alloy_primitives::keccak256;
use k256::ecdsa::SigningKey;
use mesh_core::{
    id::{Address, AppId, B256, InstanceId, MemberKey, TokenId, WireguardKey},
    key_claim::GuestApi,
    network::MeshNetwork,
    registration::{Domain, NODE_KEY_DOMAIN, NODE_KEY_PURPOSE, Proof, Registration, SignatureChain},
};
use mesh_tunnel::PrivateKey;
use zeroize::Zeroizing;

/// A public chain: the age of its blocks counts.
pub(crate) const CHAIN: u64 = 10;
/// The base domain of the gateway, the first of the contract's.
pub(crate) const GATEWAY_DOMAIN: &str = "gw.example";
/// The port at which agents listen for streams.
pub(crate) const STREAM_PORT: u16 = 51822;
/// UDP port of every device.
pub(crate) const LISTEN_PORT: u16 = 51821;
/// Who owns every token.
pub(crate) const OWNER: Address = Address::repeat_byte(0x99);

/// KMS root, app key and contract.
#[derive(Debug)]
pub(crate) struct Cluster {
    root: SigningKey,
    app: SigningKey,
    pub(crate) app_id: AppId,
    pub(crate) domain: Domain,
}

thread_local! {
    static SIGNATURES: RefCell<HashMap<(B256, B256), [u8; 65]>> = RefCell::new(HashMap::new());
    static CHAINS: RefCell<HashMap<(Address, InstanceId), SignatureChain>> = RefCell::new(HashMap::new());
}

/// The cluster of every run.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::with_root(0x01))
}

/// The same app as the KMS of an attacker would have it.
pub(crate) fn foreign() -> &'static Cluster {
    static FOREIGN: OnceLock<Cluster> = OnceLock::new();
    FOREIGN.get_or_init(|| Cluster::with_root(0x07))
}

impl Cluster {
    fn with_root(byte: u8) -> Self {
        let (root, app_id) = (SigningKey::from_slice(&[byte; 32]).unwrap(), AppId([0x11; 20]));
        let app = derived(&[&root.to_bytes(), &app_id.0]);
        let domain = Domain { chain_id: CHAIN, contract: Address::repeat_byte(0xcc) };
        Self { root, app, app_id, domain }
    }

    pub(crate) fn root_address(&self) -> Address {
        address(&self.root)
    }

    pub(crate) fn node_address(&self, instance: InstanceId) -> Address {
        address(&self.node_key(instance))
    }

    /// The registration, signed by node key and member key, with the chain that leads to the KMS root.
    pub(crate) fn prove(&self, registration: Registration) -> Proof {
        let (node_key, digest) = (self.node_key(registration.instance), registration.digest(&self.domain));
        let chain = CHAINS.with_borrow_mut(|known| {
            let entry = known.entry((self.root_address(), registration.instance));
            entry.or_insert_with(|| self.chain(registration.instance)).clone()
        });
        let member = member_secret(registration.instance);
        Proof { registration, chain, node_signature: sign(&node_key, digest), member_signature: sign(&member, digest) }
    }

    /// Every other node has a node key of guest API v1.
    pub(crate) fn node_key_api(&self, instance: InstanceId) -> GuestApi {
        if instance.0[0].is_multiple_of(2) { GuestApi::V1 } else { GuestApi::V0 }
    }

    /// With v1 it is that of the app.
    fn node_key(&self, instance: InstanceId) -> SigningKey {
        match self.node_key_api(instance) {
            GuestApi::V0 => derived(&[&self.app.to_bytes(), &instance.0]),
            GuestApi::V1 => derived(&[&self.app.to_bytes(), NODE_KEY_DOMAIN.as_bytes()]),
        }
    }

    fn chain(&self, instance: InstanceId) -> SignatureChain {
        let node_key = &self.node_key(instance);
        let node_message = match self.node_key_api(instance) {
            GuestApi::V0 => format!("{NODE_KEY_PURPOSE}:{}", hex::encode(compressed(node_key))).into_bytes(),
            GuestApi::V1 => claim(&compressed(node_key)),
        };
        let app_message = [b"dstack-kms-issued:".as_slice(), &self.app_id.0, &compressed(&self.app)].concat();
        SignatureChain {
            node_key: coordinates(node_key),
            app_key: coordinates(&self.app),
            app_signature: sign(&self.app, keccak256(node_message)),
            kms_signature: sign(&self.root, keccak256(app_message)),
            app_id: self.app_id,
        }
    }
}

pub(crate) fn network() -> MeshNetwork {
    MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap()
}

pub(crate) fn token(node: usize) -> TokenId {
    TokenId::new(u32::try_from(node).unwrap() + 1).unwrap()
}

pub(crate) fn instance(node: usize) -> InstanceId {
    InstanceId([u8::try_from(node).unwrap() + 1; 20])
}

/// The mesh address of a token.
pub(crate) fn mesh_address(token: TokenId) -> Ipv4Addr {
    network().address_of(token).unwrap()
}

pub(crate) fn wireguard_secret(node: usize) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new(keccak256([b"wireguard".as_slice(), &instance(node).0].concat()).0))
}

/// What a multiplication on the curve would give each time.
pub(crate) fn wireguard_key(node: usize) -> WireguardKey {
    thread_local! {
        static KEYS: RefCell<HashMap<usize, WireguardKey>> = RefCell::new(HashMap::new());
    }
    KEYS.with_borrow_mut(|keys| {
        *keys.entry(node).or_insert_with(|| WireguardKey(*wireguard_secret(node).public_key().as_bytes()))
    })
}

pub(crate) fn member_address(instance: InstanceId) -> Address {
    address(&member_secret(instance))
}

/// What proofs of the node's registrations say: calculated once for all runs.
pub(crate) fn member_key(node: usize) -> MemberKey {
    thread_local! {
        static KEYS: RefCell<HashMap<usize, MemberKey>> = RefCell::new(HashMap::new());
    }
    KEYS.with_borrow_mut(|keys| {
        *keys.entry(node).or_insert_with(|| MemberKey(compressed(&member_secret(instance(node)))))
    })
}

fn member_secret(instance: InstanceId) -> SigningKey {
    derived(&[b"drawn by ", &instance.0])
}

/// What the shell of a node signs with its member key.
pub(crate) fn sign_as_member(node: usize, digest: B256) -> [u8; 65] {
    sign(&member_secret(instance(node)), digest)
}

/// What an app key signs about a node key in guest API v1.
fn claim(node_key: &[u8; 33]) -> Vec<u8> {
    let parts = [b"dstack-guest-v1-key-claim".as_slice(), b"secp256k1", NODE_KEY_DOMAIN.as_bytes(), node_key];
    parts.map(|part| [&u32::try_from(part.len()).unwrap().to_be_bytes(), part].concat()).concat()
}

fn derived(parts: &[&[u8]]) -> SigningKey {
    SigningKey::from_slice(keccak256(parts.concat()).as_slice()).unwrap()
}

fn sign(key: &SigningKey, digest: B256) -> [u8; 65] {
    let name = (keccak256(key.to_bytes()), digest);
    if let Some(known) = SIGNATURES.with_borrow(|known| known.get(&name).copied()) {
        return known;
    }
    let (signature, recovery) = key.sign_prehash_recoverable(digest.as_slice()).unwrap();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = recovery.to_byte();
    SIGNATURES.with_borrow_mut(|known| known.insert(name, bytes));
    bytes
}

fn address(key: &SigningKey) -> Address {
    Address::from_raw_public_key(&coordinates(key))
}

fn coordinates(key: &SigningKey) -> [u8; 64] {
    key.verifying_key().to_encoded_point(false).as_bytes()[1..].try_into().unwrap()
}

fn compressed(key: &SigningKey) -> [u8; 33] {
    key.verifying_key().to_encoded_point(true).as_bytes().try_into().unwrap()
}
