//! Registrations that an attacker signs: right in everything but what a test changes.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result};
use mesh_contract::register_peer;
use mesh_core::{
    id::{Address, AppId, InstanceId, TokenId, WireguardKey},
    registration::{Domain, NetworkType, Proof, Registration},
    registry::PeerRecord,
};

use crate::{
    chain::OPERATOR,
    cvm::{Cvm, KMS_ROOT},
    world::World,
};

/// A KMS root that only a malicious RPC endpoint vouches for.
pub const OTHER_ROOT: [u8; 32] = [2; 32];
/// The token of the invented peer.
pub const INVENTED_TOKEN: u32 = 77;

/// What the attacker knows and may choose.
#[derive(Debug)]
pub struct Attacker {
    /// The contract that the registrations are signed for.
    pub domain: Domain,
    /// The app that the contract allows.
    pub app_id: AppId,
    block: u64,
    /// The invented peer's.
    pub key: WireguardKey,
    deadline: u64,
}

/// A record with its proof: one entry of a registry.
pub type Invented = (PeerRecord, Proof);

impl Attacker {
    /// Reads what is public about the world's contract.
    pub fn new(world: &World) -> Result<Self> {
        Ok(Self {
            domain: Domain { chain_id: 31337, contract: world.contract().parse()? },
            app_id: world.contract().parse::<Address>()?.into(),
            block: world.chain.block_number()?,
            // A point of large order, as any real key is.
            key: WireguardKey([9; 32]),
            deadline: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600,
        })
    }

    /// A peer whose proof is right in everything, but that no chain has registered.
    pub fn peer(&self) -> Result<Invented> {
        self.signed(KMS_ROOT, self.app_id, self.domain)
    }

    /// The same under another KMS root, for another app or for another contract.
    pub fn signed(&self, root: [u8; 32], app_id: AppId, domain: Domain) -> Result<Invented> {
        self.registered(root, app_id, domain, |_| {})
    }

    /// The registration with `change` applied, signed afterwards by the CVM it names.
    fn registered(
        &self,
        root: [u8; 32],
        app_id: AppId,
        domain: Domain,
        change: impl FnOnce(&mut Registration),
    ) -> Result<Invented> {
        let mut registration = Registration {
            token: TokenId::new(INVENTED_TOKEN).context("a token is not zero")?,
            instance: InstanceId([7; 20]),
            member_address: Address::ZERO,
            wireguard_key: self.key,
            tls_key: None,
            key_epoch: 1,
            network_type: NetworkType::Wireguard,
            endpoint: Some(SocketAddr::new(IpAddr::from([192, 0, 2, 250]), 51821)),
            gateway: None,
            deadline: self.deadline,
        };
        change(&mut registration);
        let cvm = Cvm::new(&root, app_id, registration.instance)?;
        registration.member_address = cvm.member_address().into();
        let record = PeerRecord::registered(&registration, &[], Cvm::root_address(&root)?.into(), app_id, self.block);
        Ok((record, cvm.prove(registration, &domain)))
    }

    /// Mints a token for a CVM that does not run and registers it on chain, with `change` applied. Each needs a number of its own
    /// below 50. Returns the token, and when its block was there.
    pub fn admit(
        &self,
        world: &World,
        number: u8,
        change: impl FnOnce(&mut Registration),
    ) -> Result<(TokenId, Instant)> {
        let instance = InstanceId([100 + number; 20]);
        let minted = world.operate(&["mint", "--to", OPERATOR, "--instance", &instance.to_string()])?;
        let token = &minted["token_id"];
        let listed = world.operate(&["nodes"])?;
        let node = listed["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["token_id"] == *token));
        let key_epoch = node.and_then(|node| node["key_epoch"].as_u64()).context("the new token is not listed")?;
        let token = u32::try_from(token.as_u64().context("no token_id")?)?.try_into()?;
        let key_epoch = u32::try_from(key_epoch + 1)?;
        let (_, proof) = self.genuine(|registration| {
            *registration = Registration { token, instance, key_epoch, ..*registration };
            registration.wireguard_key = WireguardKey([20 + number; 32]);
            change(registration);
        })?;
        let block = world.chain.send(OPERATOR, world.contract(), &register_peer(&proof).abi_encode())?;
        Ok((token, block))
    }

    /// A registration that the contract would take, but for what `change` changes.
    pub fn genuine(&self, change: impl FnOnce(&mut Registration)) -> Result<Invented> {
        self.registered(KMS_ROOT, self.app_id, self.domain, change)
    }
}
