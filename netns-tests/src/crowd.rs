//! Members that are registered like any other and do not run: for meshes of more nodes than a machine has room for.

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, FixedBytes, U256, keccak256};
use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result};
use mesh_contract::{DstackClusterNFT::mintCall, register_peer};
use mesh_core::{
    id::{InstanceId, TokenId, WireguardKey},
    registration::{Domain, NetworkType, Registration},
};

use crate::{
    chain::OPERATOR,
    cvm::{Cvm, KMS_ROOT},
    world::World,
};

/// The node of this number of a crowd: it has no key epoch yet but that of its mint.
#[derive(Debug, Clone, Copy)]
pub struct Absent {
    /// Its token.
    pub token: TokenId,
    instance: InstanceId,
}

impl World {
    /// Mints a token for the node of this number. In a contract whose tokens all were minted once, which each new number is the next of.
    pub fn mint_absent(&self, number: u32) -> Result<Absent> {
        let mut instance = InstanceId([0; 20]);
        instance.0.copy_from_slice(&keccak256(number.to_be_bytes())[..20]);
        let to: Address = OPERATOR.parse()?;
        let call = mintCall { to, instanceId: FixedBytes(instance.0), appId: Address::ZERO };
        self.chain.send(OPERATOR, self.contract(), &call.abi_encode())?;
        Ok(Absent { token: TokenId::new(number).context("tokens begin with 1")?, instance })
    }

    /// Makes it a peer, with keys that no node has and an address where none listens.
    pub fn register_absent(&self, node: Absent) -> Result<()> {
        let contract: Address = self.contract().parse()?;
        let cvm = Cvm::new(&KMS_ROOT, contract.into(), node.instance)?;
        let registration = Registration {
            token: node.token,
            instance: node.instance,
            member_address: cvm.member_address().into(),
            wireguard_key: key_of(node.instance),
            key_epoch: 2,
            network_type: NetworkType::Wireguard,
            endpoint: Some(SocketAddr::new(IpAddr::from([192, 0, 2, 250]), 51821)),
            gateway: None,
            deadline: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600,
        };
        let proof = cvm.prove(registration, &Domain { chain_id: 31337, contract });
        self.chain.send(OPERATOR, self.contract(), &register_peer(&proof).abi_encode()).map(drop)
    }

    /// Takes its membership away.
    pub fn revoke_absent(&self, node: Absent) -> Result<()> {
        let call = mesh_contract::DstackClusterNFT::revokeCall { tokenId: U256::from(node.token.get()) };
        self.chain.send(OPERATOR, self.contract(), &call.abi_encode()).map(drop)
    }
}

/// A public key whose private one is not known: almost any number below 2^255 is one.
fn key_of(instance: InstanceId) -> WireguardKey {
    let mut key = keccak256(instance.0).0;
    key[31] &= 0x7f;
    WireguardKey(key)
}
