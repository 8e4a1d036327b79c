//! Registrations from before TLS keys: a cluster that was upgraded has peers whose log is of this form, and their signatures hold.

use mesh_core::{
    id::WireguardKey,
    registration::{Proof, Registration, SignedDomain, SignedGateway},
};

use crate::{
    DstackClusterNFT,
    convert::{ConvertError, endpoint, gateway, instance, member_signature, network_type, signature, token},
};

/// The event as contracts without TLS keys logged it.
mod abi {
    #![allow(missing_docs, reason = "IDstackClusterNFT.sol has it, and the fields that were added")]

    alloy_sol_types::sol! {
        #[derive(Debug, PartialEq, Eq)]
        struct Registration {
            uint256 tokenId;
            bytes20 instanceId;
            address memberAddress;
            bytes32 wireguardKey;
            uint32 keyEpoch;
            uint8 networkType;
            bytes16 endpointAddress;
            uint16 endpointPort;
            uint16 gatewayDomain;
            uint16 gatewayPort;
            uint64 deadline;
        }
        #[derive(Debug, PartialEq, Eq)]
        struct SignatureChain {
            bytes32 nodeKeyX;
            bytes32 nodeKeyY;
            bytes32 appKeyX;
            bytes32 appKeyY;
            bytes appSignature;
            bytes kmsSignature;
            address appId;
        }
        #[derive(Debug, PartialEq, Eq)]
        event PeerRegistered(
            uint256 indexed tokenId,
            Registration registration,
            SignatureChain chain,
            bytes nodeSignature,
            bytes memberSignature,
            address nodeAddress,
            address kmsRoot,
            uint64 epoch
        );
    }
}

pub use abi::{
    PeerRegistered as FormerPeerRegistered, Registration as FormerRegistration, SignatureChain as FormerSignatureChain,
};

impl TryFrom<FormerRegistration> for Registration {
    type Error = ConvertError;
    fn try_from(former: FormerRegistration) -> Result<Self, ConvertError> {
        let token = token(former.tokenId)?;
        let place = gateway(former.gatewayDomain, former.gatewayPort)?;
        Ok(Self {
            token,
            instance: instance(former.instanceId).ok_or(ConvertError::ZeroInstance(token))?,
            member_address: former.memberAddress,
            wireguard_key: WireguardKey(former.wireguardKey.0),
            tls_key: None,
            key_epoch: former.keyEpoch,
            network_type: network_type(former.networkType)?,
            endpoint: endpoint(former.endpointAddress, former.endpointPort)?,
            gateway: place.map(|place| SignedGateway { domain: SignedDomain::Index(place.domain), port: place.port }),
            deadline: former.deadline,
        })
    }
}

/// The proof that such a registration left in its block.
impl TryFrom<FormerPeerRegistered> for Proof {
    type Error = ConvertError;
    fn try_from(log: FormerPeerRegistered) -> Result<Self, ConvertError> {
        if log.tokenId != log.registration.tokenId {
            return Err(ConvertError::LogToken { topic: log.tokenId, inside: log.registration.tokenId });
        }
        let chain = crate::IDstackClusterNFT::SignatureChain {
            nodeKeyX: log.chain.nodeKeyX,
            nodeKeyY: log.chain.nodeKeyY,
            appKeyX: log.chain.appKeyX,
            appKeyY: log.chain.appKeyY,
            appSignature: log.chain.appSignature,
            kmsSignature: log.chain.kmsSignature,
            appId: log.chain.appId,
        };
        Ok(Self {
            node_signature: signature("node", &log.nodeSignature)?,
            member_signature: member_signature(&log.memberSignature)?,
            registration: log.registration.try_into()?,
            chain: chain.try_into()?,
        })
    }
}

/// The proof in a log of either form. `None`: it is another event, or none of this ABI.
#[must_use]
pub fn logged_proof(log: &alloy_primitives::LogData) -> Option<Result<Proof, ConvertError>> {
    use alloy_sol_types::SolEvent as _;
    if let Ok(event) = DstackClusterNFT::PeerRegistered::decode_log_data(log) {
        return Some(event.try_into());
    }
    FormerPeerRegistered::decode_log_data(log).ok().map(Proof::try_from)
}
