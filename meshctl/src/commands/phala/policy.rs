//! What the contract must say before CVMs of its app can boot and join, and the transactions that make it say so.

use alloy_primitives::{Address, B256, TxHash};
use mesh_contract::DstackClusterNFT::{
    addComposeHashCall, addDeviceCall, allowAnyDeviceCall, allowedComposeHashesCall, allowedDeviceIdsCall,
    kmsRootsCall, ownerCall,
};

use super::super::deploy::{DstackKms, register_call, root_of_kms};
use crate::{
    chain::{Call, Operator},
    failure::Failure,
    output::Printer,
    phala::KmsInfo,
};

/// The contract, and its owner's key.
pub(super) struct Policy<'a> {
    pub(super) operator: &'a Operator,
    pub(super) printer: &'a Printer,
    pub(super) contract: Address,
}

impl Policy<'_> {
    /// # Errors
    /// The key is another account's: nothing that is needed would be accepted.
    pub(super) async fn require_owner(&self) -> anyhow::Result<()> {
        let owner = self.operator.chain.read(self.contract, ownerCall {}, None).await?;
        if owner == self.operator.address {
            return Ok(());
        }
        let what = format!("the contract belongs to {owner}, and the key is that of {}", self.operator.address);
        Err(Failure::new(what)
            .hint("give the contract owner's key: CVMs need compose hashes and tokens that it alone can add")
            .into())
    }

    /// The root of a KMS that the API has named. What the API says of it is checked: the chain, and that the contract trusts the root.
    pub(super) async fn trusted_root(&self, kms: &KmsInfo) -> anyhow::Result<Address> {
        let chain = &self.operator.chain;
        if kms.chain_id != chain.id {
            let what = format!(
                "the KMS `{}` belongs to chain {}, and the contract is on chain {}",
                kms.name, kms.chain_id, chain.id
            );
            return Err(Failure::new(what)
                .hint("choose the KMS of the contract's chain: `--kms base` or `--kms ethereum`")
                .into());
        }
        let root = root_of_kms(chain, kms.contract).await?;
        let head = chain.head().await?;
        let trusted = chain.read(self.contract, kmsRootsCall {}, Some(head)).await?;
        let mut counted = trusted.roots.iter().zip(&trusted.effectiveAt).filter(|(_, at)| **at <= head.time);
        if counted.any(|(trusted, _)| *trusted == root) {
            return Ok(root);
        }
        let what = format!(
            "the contract does not trust the KMS root {root} of `{}` (DstackKms {}) now",
            kms.name, kms.contract
        );
        Err(Failure::new(what)
            .hint(format!(
                "no CVM could join: if it is the right one, `meshctl root add {root}`, which counts after a day"
            ))
            .into())
    }

    pub(super) async fn is_registered(&self, kms: Address) -> anyhow::Result<bool> {
        self.operator.chain.read(kms, DstackKms::registeredAppsCall { appId: self.contract }, None).await
    }

    /// Makes the contract an app of the KMS, where it is none.
    pub(super) async fn register(&self, kms: Address) -> anyhow::Result<Option<TxHash>> {
        if self.is_registered(kms).await? {
            return Ok(None);
        }
        self.send(&register_call(kms, self.contract)).await.map(Some)
    }

    /// Lets CVMs of an app-compose.json boot, where they may not.
    pub(super) async fn allow_compose(&self, hash: B256) -> anyhow::Result<Option<TxHash>> {
        let call = allowedComposeHashesCall { composeHash: hash };
        if self.operator.chain.read(self.contract, call, None).await? {
            return Ok(None);
        }
        let call = addComposeHashCall { composeHash: hash };
        self.send(&Call::function(format!("allow compose hash {hash}"), self.contract, &call)).await.map(Some)
    }

    /// Lets CVMs boot on a machine, where they may not.
    pub(super) async fn allow_device(&self, device: B256) -> anyhow::Result<Option<TxHash>> {
        let chain = &self.operator.chain;
        if chain.read(self.contract, allowAnyDeviceCall {}, None).await?
            || chain.read(self.contract, allowedDeviceIdsCall { deviceId: device }, None).await?
        {
            return Ok(None);
        }
        let call = addDeviceCall { deviceId: device };
        self.send(&Call::function(format!("allow device {device}"), self.contract, &call)).await.map(Some)
    }

    async fn send(&self, call: &Call) -> anyhow::Result<TxHash> {
        Ok(self.operator.send(self.printer, call).await?.hash)
    }
}
