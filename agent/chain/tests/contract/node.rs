//! One dstack instance with keys of the test's own: what it gets from its KMS, and what it signs.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, keccak256};
use k256::ecdsa::SigningKey;
use mesh_core::{
    id::{AppId, InstanceId, TokenId, WireguardKey},
    registration::{
        Domain, EndpointUpdate, NODE_KEY_DOMAIN, NODE_KEY_PURPOSE, NetworkType, Proof, Registration, SignatureChain,
    },
};

/// Root key 01..01, app key and node key of the synthetic vector in `contracts/test/vectors/chains.json`.
pub(crate) struct Node {
    root: SigningKey,
    app: SigningKey,
    node: SigningKey,
    member: SigningKey,
    app_id: AppId,
    pub(crate) instance: InstanceId,
}

impl Node {
    pub(crate) fn new(app_id: AppId, instance: u8) -> Self {
        let key = |hex: &str| SigningKey::from_slice(&hex::decode(hex).unwrap()).unwrap();
        Self {
            root: SigningKey::from_slice(&[1; 32]).unwrap(),
            app: key("88fa429170ad091e0f87b335ba19b1729610ac25441728807ce3325161846baf"),
            node: SigningKey::from_slice(&keccak256([instance]).0).unwrap(),
            member: SigningKey::from_slice(&keccak256([instance, 1]).0).unwrap(),
            app_id,
            instance: InstanceId([instance; 20]),
        }
    }

    /// One of many.
    pub(crate) fn numbered(app_id: AppId, number: u16) -> Self {
        let id = keccak256(number.to_be_bytes());
        let key = |purpose: u8| SigningKey::from_slice(&keccak256([&id[..], &[purpose]].concat()).0).unwrap();
        let mut instance = InstanceId([0; 20]);
        instance.0.copy_from_slice(&id[..20]);
        Self { node: key(0), member: key(1), instance, ..Self::new(app_id, 1) }
    }

    pub(crate) fn root_address(&self) -> Address {
        Address::from_private_key(&self.root)
    }

    pub(crate) fn member_address(&self) -> Address {
        Address::from_private_key(&self.member)
    }

    /// The same instance as a sibling can be it: with its node key, and a member key of the sibling's own.
    pub(crate) fn as_sibling(&self) -> Self {
        let member = SigningKey::from_slice(&keccak256(b"sibling").0).unwrap();
        Self { member, root: self.root.clone(), app: self.app.clone(), node: self.node.clone(), ..*self }
    }

    /// As guest API v0 gives it.
    pub(crate) fn chain(&self) -> SignatureChain {
        let node_hex = hex::encode(compressed(&self.node));
        self.chain_of(format!("{NODE_KEY_PURPOSE}:{node_hex}").as_bytes())
    }

    /// As guest API v1 gives it.
    pub(crate) fn chain_of_v1(&self) -> SignatureChain {
        let key = compressed(&self.node);
        let parts = [b"dstack-guest-v1-key-claim".as_slice(), b"secp256k1", NODE_KEY_DOMAIN.as_bytes(), &key];
        self.chain_of(&parts.map(|part| [&u32::try_from(part.len()).unwrap().to_be_bytes(), part].concat()).concat())
    }

    /// The app key signs this about the node key.
    fn chain_of(&self, node_message: &[u8]) -> SignatureChain {
        let issued = [b"dstack-kms-issued:".as_slice(), &self.app_id.0, &compressed(&self.app)].concat();
        SignatureChain {
            node_key: coordinates(&self.node),
            app_key: coordinates(&self.app),
            app_signature: sign(&self.app, keccak256(node_message)),
            kms_signature: sign(&self.root, keccak256(issued)),
            app_id: self.app_id,
        }
    }

    pub(crate) fn registration(&self, token: TokenId, key_epoch: u32) -> Registration {
        Registration {
            token,
            instance: self.instance,
            member_address: self.member_address(),
            wireguard_key: WireguardKey(keccak256(self.instance.0).0),
            tls_key: None,
            key_epoch,
            network_type: NetworkType::Wireguard,
            endpoint: Some("192.0.2.7:51821".parse().unwrap()),
            gateway: None,
            deadline: in_an_hour(),
        }
    }

    pub(crate) fn prove(&self, registration: Registration, domain: &Domain) -> Proof {
        let digest = registration.digest(domain);
        let (node_signature, member_signature) = (sign(&self.node, digest), sign(&self.member, digest));
        Proof { registration, chain: self.chain(), node_signature, member_signature }
    }

    pub(crate) fn sign_update(&self, update: &EndpointUpdate, domain: &Domain) -> [u8; 65] {
        sign(&self.member, update.digest(domain))
    }
}

/// In Unix seconds: the contract takes no deadline more than a day ahead.
pub(crate) fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

/// r ‖ s ‖ v, v = 0 or 1, as dstack signs.
fn sign(key: &SigningKey, digest: B256) -> [u8; 65] {
    let (signature, recovery) = key.sign_prehash_recoverable(digest.as_slice()).unwrap();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = recovery.to_byte();
    bytes
}

fn compressed(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_encoded_point(true).as_bytes().to_vec()
}

fn coordinates(key: &SigningKey) -> [u8; 64] {
    key.verifying_key().to_encoded_point(false).as_bytes()[1..].try_into().unwrap()
}
