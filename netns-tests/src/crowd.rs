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

impl Absent {
    fn new(number: u32) -> Result<Self> {
        let mut instance = InstanceId([0; 20]);
        instance.0.copy_from_slice(&keccak256(number.to_be_bytes())[..20]);
        Ok(Self { token: TokenId::new(number).context("tokens begin with 1")?, instance })
    }

    fn mint(self) -> Result<mintCall> {
        Ok(mintCall { to: OPERATOR.parse()?, instanceId: FixedBytes(self.instance.0), appId: Address::ZERO })
    }
}

impl World {
    /// The nodes 1 to `count`, members like any other, but with no address: none is tried to be reached.
    pub fn register_crowd(&self, count: u32) -> Result<()> {
        let nodes: Vec<Absent> = (1..=count).map(Absent::new).collect::<Result<_>>()?;
        let mints: Vec<_> = nodes.iter().map(|node| Ok(node.mint()?.abi_encode())).collect::<Result<_>>()?;
        self.chain.send_all(OPERATOR, self.contract(), &mints)?;
        let calls: Vec<_> = nodes.iter().map(|node| self.registration(*node, None)).collect::<Result<_>>()?;
        self.chain.send_all(OPERATOR, self.contract(), &calls)
    }

    /// Mints a token for the node of this number. In a contract whose tokens all were minted once, which each new number is the next of.
    pub fn mint_absent(&self, number: u32) -> Result<Absent> {
        let node = Absent::new(number)?;
        self.chain.send(OPERATOR, self.contract(), &node.mint()?.abi_encode())?;
        Ok(node)
    }

    /// Makes it a peer, with keys that no node has and an address where none listens.
    pub fn register_absent(&self, node: Absent) -> Result<()> {
        let nowhere = SocketAddr::new(IpAddr::from([192, 0, 2, 250]), 51821);
        let call = self.registration(node, Some(nowhere))?;
        self.chain.send(OPERATOR, self.contract(), &call).map(drop)
    }

    fn registration(&self, node: Absent, endpoint: Option<SocketAddr>) -> Result<Vec<u8>> {
        let contract: Address = self.contract().parse()?;
        let cvm = Cvm::new(&KMS_ROOT, contract.into(), node.instance)?;
        let registration = Registration {
            token: node.token,
            instance: node.instance,
            member_address: cvm.member_address().into(),
            wireguard_key: key_of(node.instance),
            tls_key: None,
            key_epoch: 2,
            network_type: NetworkType::Wireguard,
            endpoint,
            gateway: None,
            deadline: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600,
        };
        let proof = cvm.prove(registration, &Domain { chain_id: 31337, contract });
        Ok(register_peer(&proof).abi_encode())
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
