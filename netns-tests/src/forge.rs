//! Registrations signed by hand: what an honest node would sign, and what an attacker would like to pass off as that.
//!
//! The worlds' KMS root key is public, so a chain made here is as good as one from the simulator: a test that tampers with
//! one thing knows that everything else is right.

use anyhow::{Context as _, Result};
use dstack_simulator::keys::{self, KmsRoot};
use k256::ecdsa::SigningKey;
use mesh_core::{
    id::{AppId, InstanceId},
    registration::{Domain, NODE_KEY_PURPOSE, Proof, Registration, SignatureChain, node_key_path},
};

/// A CVM's node key with its chain up to a KMS root.
pub struct Cvm {
    /// Its instance id.
    pub instance: InstanceId,
    chain: SignatureChain,
    key: SigningKey,
}

impl Cvm {
    /// The instance `instance` of the app `app_id` under the KMS root with this private key.
    pub fn new(root: &[u8; 32], app_id: AppId, instance: InstanceId) -> Result<Self> {
        let app = KmsRoot::from_scalar(root)?.issue(&app_id.0)?;
        let key = SigningKey::from_slice(app.derive(node_key_path(instance).as_bytes()).as_ref())?;
        let point = |key: &k256::ecdsa::VerifyingKey| -> Result<[u8; 64]> {
            key.to_encoded_point(false).as_bytes()[1..].try_into().context("a point has 64 bytes")
        };
        let chain = SignatureChain {
            node_key: point(key.verifying_key())?,
            app_key: point(app.verifying_key())?,
            app_signature: app.vouch(NODE_KEY_PURPOSE, key.verifying_key().to_encoded_point(true).as_bytes()),
            kms_signature: app.issued().try_into().context("a KMS signature has 65 bytes")?,
            app_id,
        };
        Ok(Self { instance, chain, key })
    }

    /// Address of the KMS root with this private key.
    pub fn root_address(root: &[u8; 32]) -> Result<[u8; 20]> {
        Ok(KmsRoot::from_scalar(root)?.address())
    }

    /// Address of the node key.
    #[must_use]
    pub fn address(&self) -> [u8; 20] {
        keys::address(self.key.verifying_key())
    }

    /// The node key's private bytes: what must not be seen anywhere.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.key.to_bytes().into()
    }

    /// What `GetKey(path)` gives every instance of an app.
    pub fn app_secret(root: &[u8; 32], app_id: AppId, path: &str) -> Result<[u8; 32]> {
        Ok(*KmsRoot::from_scalar(root)?.issue(&app_id.0)?.derive(path.as_bytes()))
    }

    /// Signs whatever it is given.
    #[must_use]
    pub fn prove(&self, registration: Registration, domain: &Domain) -> Proof {
        let node_signature = keys::sign(&self.key, &registration.digest(domain).0);
        Proof { registration, chain: self.chain.clone(), node_signature }
    }
}

/// The address of a private key, as text.
pub(crate) fn address_of(key: &[u8; 32]) -> Result<String> {
    Ok(keys::checksummed(&Cvm::root_address(key)?))
}
