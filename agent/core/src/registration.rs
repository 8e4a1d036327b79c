//! What a node signs, and the proof that goes with it: the Rust twin of the contract's `Registration`, `EndpointUpdate` and
//! `SignatureChain`, with their EIP-712 hashes written out by hand so that the core needs no ABI library.

mod gateway;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use alloy_primitives::{Address, B256, U256, keccak256};
use serde::{Deserialize, Serialize};

pub use gateway::{Gateway, SignedDomain, SignedGateway};

use crate::id::{AppId, InstanceId, TlsKey, TokenId, WireguardKey};

/// The purpose for which the app key signs for a node key of guest API v0: the second argument of its `GetKey`.
pub const NODE_KEY_PURPOSE: &str = "dstack-mesh-node-v1";

/// The domain of the node key of guest API v1: the first argument of its `GetKey`. Every instance of an app has this one key: what it
/// proves is the app, as with v0, where each instance can derive the node keys of all others.
pub const NODE_KEY_DOMAIN: &str = "dstack-mesh/node";

/// The path of an instance's node key of guest API v0: the first argument of its `GetKey`.
#[must_use]
pub fn node_key_path(instance: InstanceId) -> String {
    format!("dstack-mesh/node/{instance}")
}

/// How a peer is reached; the contract's enum of the same name, with its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkType {
    /// An https URL behind the dstack gateway, no WireGuard key, and a TLS key (value 0).
    TlsGateway,
    /// A WireGuard peer with an address in the mesh network (value 1).
    Wireguard,
}

/// The purpose of a member key that the guest agent derives, for a node whose disk does not last.
pub const MEMBER_KEY_PURPOSE: &str = "dstack-mesh-member-v1";

/// The path of an instance's derived member key.
#[must_use]
pub fn member_key_path(instance: InstanceId) -> String {
    format!("dstack-mesh/member/{instance}")
}

/// What makes a node a peer. See `IDstackClusterNFT.Registration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The token it is for.
    pub token: TokenId,
    /// The CVM that signs.
    pub instance: InstanceId,
    /// Address of its member key, which signs as well: the first registration of a binding names it, and every later one must use
    /// the same.
    pub member_address: Address,
    /// Its WireGuard public key; 32 zero bytes for [`NetworkType::TlsGateway`].
    pub wireguard_key: WireguardKey,
    /// Its TLS key. The contract takes no registration of a [`NetworkType::TlsGateway`] node without one.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// The token's stored key epoch + 1.
    pub key_epoch: u32,
    /// How it is reached.
    pub network_type: NetworkType,
    /// Direct UDP endpoint, a hint for other peers.
    pub endpoint: Option<SocketAddr>,
    /// The path through the dstack gateway, by the name of its base domain.
    pub gateway: Option<SignedGateway>,
    /// Last Unix second at which it may be submitted.
    pub deadline: u64,
}

/// What changes only where a peer is reached. See `IDstackClusterNFT.EndpointUpdate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointUpdate {
    /// The token it is for.
    pub token: TokenId,
    /// The token's stored key epoch: that of the registration it is an update of.
    pub key_epoch: u32,
    /// The token's stored endpoint epoch + 1.
    pub endpoint_epoch: u32,
    /// Direct UDP endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The path through the dstack gateway, by the name of its base domain.
    pub gateway: Option<SignedGateway>,
    /// Last Unix second at which it may be submitted.
    pub deadline: u64,
}

/// The dstack key chain KMS root -> app key -> node key, of either guest API. Signatures are r ‖ s ‖ v as submitted.
/// Nothing in it is trusted before `proof::verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureChain {
    /// Node public key, uncompressed coordinates x ‖ y (64 bytes), as the contract takes it.
    #[serde(with = "hex::serde")]
    pub node_key: [u8; 64],
    /// App public key, uncompressed coordinates x ‖ y.
    #[serde(with = "hex::serde")]
    pub app_key: [u8; 64],
    /// `signature_chain[0]` of `GetKey`: app key over one of the two claims about the node key (see [`crate::key_claim`]).
    #[serde(with = "hex::serde")]
    pub app_signature: [u8; 65],
    /// `signature_chain[1]` of `GetKey`: KMS root over the app key.
    #[serde(with = "hex::serde")]
    pub kms_signature: [u8; 65],
    /// The app the KMS issued the app key to.
    pub app_id: AppId,
}

/// Everything the `PeerRegistered` log of one registration carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was signed.
    pub registration: Registration,
    /// The key chain of the signer.
    pub chain: SignatureChain,
    /// EIP-712 signature of the registration by the node key.
    #[serde(with = "hex::serde")]
    pub node_signature: [u8; 65],
    /// EIP-712 signature of the same by the member key, which recovers from it.
    #[serde(with = "hex::serde")]
    pub member_signature: [u8; 65],
}

/// The EIP-712 domain of one deployment: signatures for another chain or contract do not verify here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The cluster contract (its proxy).
    pub contract: Address,
}

/// EIP-712 domain name of every cluster contract.
pub const DOMAIN_NAME: &str = "DstackClusterNFT";
/// EIP-712 domain version of every cluster contract.
pub const DOMAIN_VERSION: &str = "1";

const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const REGISTRATION_TYPE: &str = "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,bytes32 wireguardKey,\
bytes32 tlsKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,\
uint16 gatewayPort,uint64 deadline)";
/// What contracts without TLS keys had signed.
const FORMER_REGISTRATION_TYPE: &str = "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,\
bytes32 wireguardKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,uint16 gatewayDomain,\
uint16 gatewayPort,uint64 deadline)";
const ENDPOINT_UPDATE_TYPE: &str = "EndpointUpdate(uint256 tokenId,uint32 keyEpoch,uint32 endpointEpoch,\
bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)";

impl Domain {
    /// EIP-712 domain separator.
    #[must_use]
    pub fn separator(&self) -> B256 {
        hash_words(&[
            keccak256(DOMAIN_TYPE),
            keccak256(DOMAIN_NAME),
            keccak256(DOMAIN_VERSION),
            number(self.chain_id),
            self.contract.into_word(),
        ])
    }

    fn digest(&self, struct_hash: B256) -> B256 {
        keccak256([&[0x19, 0x01], &self.separator()[..], &struct_hash[..]].concat())
    }
}

impl Registration {
    /// The 32 bytes that node key and member key sign (EIP-712 `encode`).
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> B256 {
        self.digest_as(REGISTRATION_TYPE, Some(B256::new(TlsKey::to_word(self.tls_key))), domain)
    }

    /// What they signed instead where the contract had no TLS keys yet, and named a base domain by its index. `None` for what such a
    /// registration cannot say.
    #[must_use]
    pub fn former_digest(&self, domain: &Domain) -> Option<B256> {
        let by_index = self.gateway.is_none_or(|gateway| matches!(gateway.domain, SignedDomain::Index(_)));
        (by_index && self.tls_key.is_none()).then(|| self.digest_as(FORMER_REGISTRATION_TYPE, None, domain))
    }

    fn digest_as(&self, kind: &str, tls_key: Option<B256>, domain: &Domain) -> B256 {
        let (address, port) = endpoint_words(self.endpoint);
        let (gateway_domain, gateway_port) = gateway_words(self.gateway);
        let keys = [Some(B256::new(self.wireguard_key.0)), tls_key];
        let head = [
            keccak256(kind),
            number(self.token.get().into()),
            left_aligned(&self.instance.0),
            self.member_address.into_word(),
        ];
        let tail = [
            number(self.key_epoch.into()),
            number(self.network_type.value().into()),
            address,
            port,
            gateway_domain,
            gateway_port,
            number(self.deadline),
        ];
        let words: Vec<B256> = head.into_iter().chain(keys.into_iter().flatten()).chain(tail).collect();
        domain.digest(hash_words(&words))
    }
}

impl EndpointUpdate {
    /// The 32 bytes the member key signs (EIP-712 `encode`).
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> B256 {
        let (address, port) = endpoint_words(self.endpoint);
        let (gateway_domain, gateway_port) = gateway_words(self.gateway);
        domain.digest(hash_words(&[
            keccak256(ENDPOINT_UPDATE_TYPE),
            number(self.token.get().into()),
            number(self.key_epoch.into()),
            number(self.endpoint_epoch.into()),
            address,
            port,
            gateway_domain,
            gateway_port,
            number(self.deadline),
        ]))
    }
}

impl NetworkType {
    /// The value of the contract's enum.
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::TlsGateway => 0,
            Self::Wireguard => 1,
        }
    }
}

/// The contract's (bytes16, port) form of an endpoint: IPv4 as `::ffff:a.b.c.d`, none as zeros.
#[must_use]
pub fn endpoint_to_wire(endpoint: Option<SocketAddr>) -> ([u8; 16], u16) {
    endpoint.map_or(([0; 16], 0), |endpoint| {
        let address = match endpoint.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        (address.octets(), endpoint.port())
    })
}

/// The inverse of [`endpoint_to_wire`]. `None` unless address and port are both nonzero.
#[must_use]
pub fn endpoint_from_wire(address: [u8; 16], port: u16) -> Option<SocketAddr> {
    let address = Ipv6Addr::from(address);
    (!address.is_unspecified() && port != 0).then(|| SocketAddr::new(address.to_canonical(), port))
}

fn endpoint_words(endpoint: Option<SocketAddr>) -> (B256, B256) {
    let (address, port) = endpoint_to_wire(endpoint);
    (left_aligned(&address), number(port.into()))
}

fn gateway_words(gateway: Option<SignedGateway>) -> (B256, B256) {
    gateway.map_or((B256::ZERO, B256::ZERO), |gateway| (gateway.domain.word(), number(gateway.port.into())))
}

fn hash_words(words: &[B256]) -> B256 {
    keccak256(words.concat())
}

fn number(value: u64) -> B256 {
    U256::from(value).into()
}

fn left_aligned(bytes: &[u8]) -> B256 {
    B256::right_padding_from(bytes)
}
