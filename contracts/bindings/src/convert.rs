//! Contract types to and from `mesh_core` types. What does not convert back to the same value is refused: signatures are
//! checked over the converted values.

use std::net::{Ipv4Addr, SocketAddr};

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use mesh_core::{
    id::{InstanceId, TlsKey, TokenId, WireguardKey},
    network::{InvalidNetwork, MeshNetwork},
    registration::{
        EndpointUpdate, Gateway, NetworkType, Proof, Registration, SignatureChain, SignedDomain, SignedGateway,
        endpoint_from_wire, endpoint_to_wire,
    },
    registry::{NodeRecord, PeerRecord},
};

use crate::abi::{
    DstackClusterNFT::{PeerRegistered, registerPeerCall, updateEndpointCall},
    IDstackClusterNFT as abi,
};

/// A value that an honest cluster contract never returns or logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Zero, or more than any mesh network holds.
    #[error("token id {0} is outside every mesh network")]
    Token(U256),
    /// Not a value of the contract's `NetworkType`.
    #[error("network type {0} is neither 0 (TLS_GATEWAY) nor 1 (WIREGUARD)")]
    NetworkType(u8),
    /// A peer or registration without an instance id.
    #[error("token {0} is registered without an instance id")]
    ZeroInstance(TokenId),
    /// One of address and port is zero.
    #[error("endpoint {address}, port {port}: both must be zero or both nonzero")]
    Endpoint {
        /// The 16 bytes.
        address: FixedBytes<16>,
        /// UDP port.
        port: u16,
    },
    /// One of base domain index and port is zero.
    #[error("gateway domain {domain}, port {port}: both must be zero or both nonzero")]
    Gateway {
        /// 1-based index.
        domain: u16,
        /// TCP port.
        port: u16,
    },
    /// One of base domain name and port is zero.
    #[error("gateway domain {domain}, port {port}: both must be zero or both nonzero")]
    SignedGateway {
        /// The keccak256 of its name.
        domain: B256,
        /// TCP port.
        port: u16,
    },
    /// A signature that is not r ‖ s ‖ v.
    #[error("the {which} signature has {length} bytes instead of 65")]
    SignatureLength {
        /// Whose.
        which: &'static str,
        /// Bytes found.
        length: usize,
    },
    /// The indexed token of a `PeerRegistered` log is not that of its registration.
    #[error("a registration of token {inside} was logged for token {topic}")]
    LogToken {
        /// Indexed.
        topic: U256,
        /// In the registration.
        inside: U256,
    },
    /// A network no cluster can have.
    #[error(transparent)]
    Network(#[from] InvalidNetwork),
}

impl TryFrom<abi::Peer> for PeerRecord {
    type Error = ConvertError;
    fn try_from(peer: abi::Peer) -> Result<Self, ConvertError> {
        let token = token(peer.tokenId)?;
        Ok(Self {
            token,
            instance: instance(peer.instanceId).ok_or(ConvertError::ZeroInstance(token))?,
            member_address: peer.memberAddress,
            wireguard_key: WireguardKey(peer.wireguardKey.0),
            tls_key: TlsKey::from_word(peer.tlsKey.0),
            key_epoch: peer.keyEpoch,
            endpoint_epoch: peer.endpointEpoch,
            network_type: network_type(peer.networkType)?,
            endpoint: endpoint(peer.endpointAddress, peer.endpointPort)?,
            gateway: gateway(peer.gatewayDomain, peer.gatewayPort)?,
            kms_root: peer.kmsRoot,
            app_id: peer.appId.into(),
            registered_block: peer.registeredBlock,
        })
    }
}

impl TryFrom<abi::Node> for NodeRecord {
    type Error = ConvertError;
    fn try_from(node: abi::Node) -> Result<Self, ConvertError> {
        Ok(Self {
            token: token(node.tokenId)?,
            owner: nonzero(node.owner),
            instance: instance(node.instanceId),
            member_address: nonzero(node.memberAddress),
            bound_app_id: nonzero(node.boundAppId).map(Into::into),
            key_epoch: node.keyEpoch,
            endpoint_epoch: node.endpointEpoch,
            active: node.active,
            revoked: node.revoked,
        })
    }
}

impl TryFrom<abi::Registration> for Registration {
    type Error = ConvertError;
    fn try_from(registration: abi::Registration) -> Result<Self, ConvertError> {
        let token = token(registration.tokenId)?;
        Ok(Self {
            token,
            instance: instance(registration.instanceId).ok_or(ConvertError::ZeroInstance(token))?,
            member_address: registration.memberAddress,
            wireguard_key: WireguardKey(registration.wireguardKey.0),
            tls_key: TlsKey::from_word(registration.tlsKey.0),
            key_epoch: registration.keyEpoch,
            network_type: network_type(registration.networkType)?,
            endpoint: endpoint(registration.endpointAddress, registration.endpointPort)?,
            gateway: signed_gateway(registration.gatewayDomain, registration.gatewayPort)?,
            deadline: registration.deadline,
        })
    }
}

impl TryFrom<abi::EndpointUpdate> for EndpointUpdate {
    type Error = ConvertError;
    fn try_from(update: abi::EndpointUpdate) -> Result<Self, ConvertError> {
        Ok(Self {
            token: token(update.tokenId)?,
            key_epoch: update.keyEpoch,
            endpoint_epoch: update.endpointEpoch,
            endpoint: endpoint(update.endpointAddress, update.endpointPort)?,
            gateway: signed_gateway(update.gatewayDomain, update.gatewayPort)?,
            deadline: update.deadline,
        })
    }
}

impl TryFrom<abi::SignatureChain> for SignatureChain {
    type Error = ConvertError;
    fn try_from(chain: abi::SignatureChain) -> Result<Self, ConvertError> {
        Ok(Self {
            node_key: join(chain.nodeKeyX, chain.nodeKeyY),
            app_key: join(chain.appKeyX, chain.appKeyY),
            app_signature: signature("app", &chain.appSignature)?,
            kms_signature: signature("KMS", &chain.kmsSignature)?,
            app_id: chain.appId.into(),
        })
    }
}

/// The proof a registration left in its block.
impl TryFrom<PeerRegistered> for Proof {
    type Error = ConvertError;
    fn try_from(log: PeerRegistered) -> Result<Self, ConvertError> {
        if log.tokenId != log.registration.tokenId {
            return Err(ConvertError::LogToken { topic: log.tokenId, inside: log.registration.tokenId });
        }
        Ok(Self {
            node_signature: signature("node", &log.nodeSignature)?,
            member_signature: member_signature(&log.memberSignature)?,
            registration: log.registration.try_into()?,
            chain: log.chain.try_into()?,
        })
    }
}

impl From<&Registration> for abi::Registration {
    fn from(registration: &Registration) -> Self {
        let (address, port) = endpoint_to_wire(registration.endpoint);
        let (domain, gateway_port) = gateway_to_wire(registration.gateway);
        Self {
            tokenId: U256::from(registration.token.get()),
            instanceId: FixedBytes(registration.instance.0),
            memberAddress: registration.member_address,
            wireguardKey: B256::new(registration.wireguard_key.0),
            tlsKey: B256::new(TlsKey::to_word(registration.tls_key)),
            keyEpoch: registration.key_epoch,
            networkType: registration.network_type.value(),
            endpointAddress: FixedBytes(address),
            endpointPort: port,
            gatewayDomain: domain,
            gatewayPort: gateway_port,
            deadline: registration.deadline,
        }
    }
}

impl From<&EndpointUpdate> for abi::EndpointUpdate {
    fn from(update: &EndpointUpdate) -> Self {
        let (address, port) = endpoint_to_wire(update.endpoint);
        let (domain, gateway_port) = gateway_to_wire(update.gateway);
        Self {
            tokenId: U256::from(update.token.get()),
            keyEpoch: update.key_epoch,
            endpointEpoch: update.endpoint_epoch,
            endpointAddress: FixedBytes(address),
            endpointPort: port,
            gatewayDomain: domain,
            gatewayPort: gateway_port,
            deadline: update.deadline,
        }
    }
}

impl From<&SignatureChain> for abi::SignatureChain {
    fn from(chain: &SignatureChain) -> Self {
        let (node_x, node_y) = split(&chain.node_key);
        let (app_x, app_y) = split(&chain.app_key);
        Self {
            nodeKeyX: node_x,
            nodeKeyY: node_y,
            appKeyX: app_x,
            appKeyY: app_y,
            appSignature: Bytes::copy_from_slice(&chain.app_signature),
            kmsSignature: Bytes::copy_from_slice(&chain.kms_signature),
            appId: chain.app_id.into(),
        }
    }
}

/// The call that submits a registration. Any account may send it; for an unbound token only the token's owner.
#[must_use]
pub fn register_peer(proof: &Proof) -> registerPeerCall {
    registerPeerCall {
        registration: (&proof.registration).into(),
        chain: (&proof.chain).into(),
        nodeSignature: Bytes::copy_from_slice(&proof.node_signature),
        memberSignature: Bytes::copy_from_slice(&proof.member_signature),
    }
}

/// The call that submits an endpoint update, signed by the member key. Any account may send it.
#[must_use]
pub fn update_endpoint(update: &EndpointUpdate, member_signature: &[u8; 65]) -> updateEndpointCall {
    updateEndpointCall { update: update.into(), memberSignature: Bytes::copy_from_slice(member_signature) }
}

/// The 65 bytes of a member signature.
pub fn member_signature(bytes: &[u8]) -> Result<[u8; 65], ConvertError> {
    signature("member", bytes)
}

/// What `meshNetwork()` returned.
pub fn mesh_network(base: FixedBytes<4>, prefix_length: u8) -> Result<MeshNetwork, ConvertError> {
    Ok(MeshNetwork::new(Ipv4Addr::from(base.0), prefix_length)?)
}

/// What `baseDomains()` returned: by index - 1, removed ones `None`.
#[must_use]
pub fn base_domains(domains: Vec<String>) -> Vec<Option<String>> {
    domains.into_iter().map(|domain| (!domain.is_empty()).then_some(domain)).collect()
}

pub(crate) fn token(id: U256) -> Result<TokenId, ConvertError> {
    u32::try_from(id).ok().and_then(TokenId::new).ok_or(ConvertError::Token(id))
}

pub(crate) fn network_type(value: u8) -> Result<NetworkType, ConvertError> {
    match value {
        0 => Ok(NetworkType::TlsGateway),
        1 => Ok(NetworkType::Wireguard),
        other => Err(ConvertError::NetworkType(other)),
    }
}

pub(crate) fn endpoint(address: FixedBytes<16>, port: u16) -> Result<Option<SocketAddr>, ConvertError> {
    let endpoint = endpoint_from_wire(address.0, port);
    if endpoint.is_none() && !(address.is_zero() && port == 0) {
        return Err(ConvertError::Endpoint { address, port });
    }
    Ok(endpoint)
}

pub(crate) fn gateway(domain: u16, port: u16) -> Result<Option<Gateway>, ConvertError> {
    match (domain, port) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(ConvertError::Gateway { domain, port }),
        _ => Ok(Some(Gateway { domain, port })),
    }
}

fn signed_gateway(domain: B256, port: u16) -> Result<Option<SignedGateway>, ConvertError> {
    match (domain.is_zero(), port) {
        (true, 0) => Ok(None),
        (true, _) | (_, 0) => Err(ConvertError::SignedGateway { domain, port }),
        (false, _) => Ok(Some(SignedGateway { domain: SignedDomain::Name(domain), port })),
    }
}

fn gateway_to_wire(gateway: Option<SignedGateway>) -> (B256, u16) {
    gateway.map_or((B256::ZERO, 0), |gateway| (gateway.domain.word(), gateway.port))
}

pub(crate) fn instance(id: FixedBytes<20>) -> Option<InstanceId> {
    (!id.is_zero()).then_some(InstanceId(id.0))
}

fn nonzero(address: Address) -> Option<Address> {
    (!address.is_zero()).then_some(address)
}

pub(crate) fn signature(which: &'static str, bytes: &[u8]) -> Result<[u8; 65], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::SignatureLength { which, length: bytes.len() })
}

fn join(x: B256, y: B256) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(&x.0);
    key[32..].copy_from_slice(&y.0);
    key
}

fn split(key: &[u8; 64]) -> (B256, B256) {
    (B256::from_slice(&key[..32]), B256::from_slice(&key[32..]))
}
