//! The keys of a CVM, for registrations that a test signs itself: an honest node's, or spoofed ones.
//!
//! The worlds' KMS root key is public, so a chain made here is as good as one from the simulator: a test that tampers with
//! one thing knows that everything else is right. Real nodes draw their member keys at random, so that a test which signs for such a
//! node reads its member key from the node's disk.

use anyhow::{Context as _, Result};
use dstack_simulator::keys::{self, KmsRoot};
use k256::ecdsa::SigningKey;
use mesh_core::{
    id::{AppId, InstanceId},
    registration::{Domain, EndpointUpdate, NODE_KEY_PURPOSE, Proof, Registration, SignatureChain, node_key_path},
};

/// KMS root key of every world's simulator: all ones, as in the published test vectors.
pub const KMS_ROOT: [u8; 32] = [1; 32];

/// A CVM's node key with its chain up to a KMS root.
pub struct Cvm {
    /// Its instance id.
    pub instance: InstanceId,
    chain: SignatureChain,
    key: SigningKey,
    member: SigningKey,
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
        // Any key that is different for each instance will do.
        let member = SigningKey::from_slice(&[&[0x5a; 12], &instance.0[..]].concat())?;
        Ok(Self { instance, chain, key, member })
    }

    /// The same, with another member key: a real node's, or an attacker's.
    pub fn with_member_key(self, key: &[u8; 32]) -> Result<Self> {
        Ok(Self { member: SigningKey::from_slice(key)?, ..self })
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

    /// Address of the member key.
    #[must_use]
    pub fn member_address(&self) -> [u8; 20] {
        keys::address(self.member.verifying_key())
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

    /// Signs a registration, whatever it says.
    #[must_use]
    pub fn prove(&self, registration: Registration, domain: &Domain) -> Proof {
        let digest = registration.digest(domain).0;
        let (node_signature, member_signature) = (keys::sign(&self.key, &digest), keys::sign(&self.member, &digest));
        Proof { registration, chain: self.chain.clone(), node_signature, member_signature }
    }

    /// Signs an endpoint update.
    #[must_use]
    pub fn sign_update(&self, update: &EndpointUpdate, domain: &Domain) -> [u8; 65] {
        keys::sign(&self.member, &update.digest(domain).0)
    }
}

/// The address of a private key, as text.
pub(crate) fn address_of(key: &[u8; 32]) -> Result<String> {
    Ok(keys::checksummed(&Cvm::root_address(key)?))
}
