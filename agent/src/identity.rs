//! Who this node is: instance, app, node key, and the KMS root its keys come from, as the guest agent vouches for them, and the member
//! key, which no other instance has.

pub mod dstack;
pub mod keyfile;
pub mod member;
pub mod node_key;
pub mod psk;
pub mod signer;
pub mod tls;

use std::path::{Path, PathBuf};

use mesh_core::{
    development::published_key,
    gateway_access::GatewayAccess,
    id::{Address, AppId, B256, InstanceId},
    key_claim::GuestApi,
    proof::Refusal,
    registration::{MEMBER_KEY_PURPOSE, member_key_path},
};
use mesh_tunnel::Secret;

use self::{
    dstack::{Endpoint, GuestAgent, GuestAgentError},
    keyfile::KeyFileError,
    member::MemberSecret,
    node_key::NodeKey,
    psk::PskRoot,
};

/// `GetKey` path of the key from which preshared keys are derived. Of guest API v0, on dstack 0.6 too: the members of a mesh must have
/// the same one, and some may run on 0.5.
const PSK_PATH: &str = "dstack-mesh/psk";
/// Its purpose; the chain of that key is never checked.
const PSK_PURPOSE: &str = "dstack-mesh-psk-v1";
/// Purpose of a derived TLS key.
const TLS_PURPOSE: &str = "dstack-mesh-tls-v1";
/// Purpose of a derived WireGuard key.
const WIREGUARD_PURPOSE: &str = "dstack-mesh-wireguard-v1";
/// `Info.cloud_vendor` of the simulator.
const SIMULATED: &str = "SIMULATED";

/// What this node is, checked. Secrets in it cannot be printed.
#[derive(Debug)]
pub struct Identity {
    /// This CVM.
    pub instance: InstanceId,
    /// Its app.
    pub app_id: AppId,
    /// SHA-256 of its app-compose.json.
    pub compose_hash: Option<B256>,
    /// The guest agent is a simulator: it says so, or its keys are published.
    pub simulated: bool,
    /// What its app-compose.json says of the gateway, where the guest agent shows it.
    pub gateway_access: Option<GatewayAccess>,
    /// The guest API that is used for everything but keys.
    pub guest_api: GuestApi,
    /// KMS root the own key chain recovers to: the first trust anchor.
    pub kms_root: Address,
    /// Where preshared keys come from.
    pub psk_root: PskRoot,
    /// What makes a registration this node's own.
    pub member: MemberSecret,
    node_key: NodeKey,
    /// Of guest API v1, for a new node: taken in the place of the other if the contract takes it.
    candidate: Option<NodeKey>,
}

/// The guest agent's answers, or the member key, do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No answer, or a refusal.
    #[error(transparent)]
    GuestAgent(#[from] GuestAgentError),
    /// The member key's file cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// `Info` lacks what is needed.
    #[error("the guest agent's `{field}` is {found}\nhint: {hint}")]
    Info {
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// The app key is not vouched for by a KMS.
    #[error(
        "the guest agent has no KMS behind it: the signature chain of its keys ends at the app key\nhint: deploy this CVM with a KMS (its registration would be refused by the contract)"
    )]
    NoKms,
    /// The key chain is malformed.
    #[error(
        "the guest agent's key chain is broken: {0}\nhint: the contract would refuse it too; is the guest agent genuine?"
    )]
    Chain(#[from] Refusal),
    /// The node has a key that this guest agent cannot give.
    #[error(
        "this node registers with its node key of guest API v1, which the guest agent at {endpoint} does not have\nhint: run this CVM on dstack 0.6 or later again; or remove `{}`, and it registers with its node key of v0",
        file.display()
    )]
    NoGuestV1 {
        /// Socket or URL.
        endpoint: Endpoint,
        /// Where it is kept which key the node has.
        file: PathBuf,
    },
    /// The keys of the two guest APIs were derived from two app keys.
    #[error(
        "the guest agent's two APIs give keys of two apps or from two KMS roots\nhint: no contract would take both; is the guest agent genuine?"
    )]
    TwoApps,
    /// A chain of the wrong shape, or a key that is none.
    #[error("the guest agent's answer to GetKey is broken: {0}")]
    Key(String),
    /// The operator expected another instance.
    #[error(
        "this is instance {found}, not {expected} as configured\nhint: correct INSTANCE_ID (`--instance-id`), or leave it out"
    )]
    OtherInstance {
        /// As configured.
        expected: InstanceId,
        /// As the guest agent says.
        found: InstanceId,
    },
    /// The operator expected another KMS root.
    #[error(
        "the guest agent's keys come from KMS root {found}, not from {expected} as configured\nhint: correct KMS_ROOT_ADDRESS (`--kms-root`) if the KMS is the right one; otherwise this CVM got its keys from a KMS that is not trusted"
    )]
    OtherRoot {
        /// As configured.
        expected: Address,
        /// Recovered from the own chain.
        found: Address,
    },
}

/// Where the member key comes from.
#[derive(Debug, Clone, Copy)]
pub enum MemberKeySource<'a> {
    /// A state directory that lasts: drawn there once.
    Disk {
        /// The directory.
        state_dir: &'a Path,
        /// Effective user id.
        user: u32,
    },
    /// `GetKey` of the guest agent, for a node without a disk that lasts: within reach of every instance of the app, which can then do
    /// as this node.
    GuestAgent,
}

/// What the operator expects, where they say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Instance id.
    pub instance: Option<InstanceId>,
    /// KMS root.
    pub kms_root: Option<Address>,
}

impl Identity {
    /// Asks the guest agent for this node's identity and keys. The member key is on its disk before this returns.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn load(
        agent: &GuestAgent,
        expected: Expected,
        member: MemberKeySource<'_>,
    ) -> Result<Self, IdentityError> {
        let info = agent.info().await?;
        let instance: InstanceId = info.instance_id.parse().map_err(|_| IdentityError::Info {
            field: "instance_id",
            found: format!("`{}`", info.instance_id),
            hint: "a mesh node needs an instance id of 40 hex digits; an app deployed with `no_instance_id` has none",
        })?;
        let app_id: AppId = info.app_id.parse().map_err(|_| IdentityError::Info {
            field: "app_id",
            found: format!("`{}`", info.app_id),
            hint: "expected 40 hex digits; is this the dstack guest agent?",
        })?;
        if let Some(expected) = expected.instance.filter(|expected| *expected != instance) {
            return Err(IdentityError::OtherInstance { expected, found: instance });
        }
        let (node_key, candidate) = node_key::ask(agent, member, app_id, instance).await?;
        if let Some(expected) = expected.kms_root.filter(|expected| *expected != node_key.kms_root) {
            return Err(IdentityError::OtherRoot { expected, found: node_key.kms_root });
        }
        let psk = agent.get_key(PSK_PATH, PSK_PURPOSE).await?;
        let member = match member {
            MemberKeySource::Disk { state_dir, user } => {
                let member = keyfile::load_or_create_member(state_dir, user)?;
                if candidate.is_none() {
                    node_key::keep(state_dir, node_key.api)?;
                }
                member
            }
            MemberKeySource::GuestAgent => derived_member_key(agent, instance).await?,
        };
        Ok(Self {
            instance,
            app_id,
            compose_hash: info.compose_hash.parse().ok().filter(|hash: &B256| !hash.is_zero()),
            simulated: is_simulated(&info.cloud_vendor, node_key.keys()),
            guest_api: agent.api(),
            gateway_access: info.gateway_access(),
            kms_root: node_key.kms_root,
            psk_root: PskRoot::new(psk.secret().clone()),
            member,
            node_key,
            candidate,
        })
    }

    /// This is a new node, and its guest agent has a node key of v1 for it: [`Identity::decide`] which it is.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        self.candidate.is_some()
    }

    /// Takes the node key of guest API v1 if the contract takes it, and keeps the decision. Does nothing where there is none to make.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn decide(&mut self, contract_takes_v1: bool, state_dir: &Path) -> Result<(), KeyFileError> {
        let Some(candidate) = self.candidate.take() else { return Ok(()) };
        if contract_takes_v1 {
            self.node_key = candidate;
        }
        node_key::keep(state_dir, self.node_key.api)
    }

    /// The node key, and the chain that goes with every registration.
    #[must_use]
    pub const fn node_key(&self) -> &NodeKey {
        &self.node_key
    }

    /// Address of the node key.
    #[must_use]
    pub const fn node_address(&self) -> Address {
        self.node_key.signer.address()
    }

    /// Signs a digest with the node key: r ‖ s ‖ v, low s, v = 27 or 28.
    ///
    /// # Errors
    /// Does not happen with a local key; the signer's words.
    pub fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        self.node_key.signer.sign(digest).map(|signature| signature.as_bytes())
    }
}

/// The WireGuard private key that the guest agent derives for an instance: the same after a restart without a disk, and
/// within reach of every instance of the app.
///
/// # Errors
/// See [`GuestAgentError`].
pub async fn derived_wireguard_key(agent: &GuestAgent, instance: InstanceId) -> Result<Secret, GuestAgentError> {
    let answer = agent.get_key(&format!("dstack-mesh/wireguard/{instance}"), WIREGUARD_PURPOSE).await?;
    Ok(answer.secret().clone())
}

/// The same for the TLS key.
///
/// # Errors
/// See [`GuestAgentError`].
pub async fn derived_tls_key(agent: &GuestAgent, instance: InstanceId) -> Result<Secret, GuestAgentError> {
    let answer = agent.get_key(&format!("dstack-mesh/tls/{instance}"), TLS_PURPOSE).await?;
    Ok(answer.secret().clone())
}

async fn derived_member_key(agent: &GuestAgent, instance: InstanceId) -> Result<MemberSecret, IdentityError> {
    let answer = agent.get_key(&member_key_path(instance), MEMBER_KEY_PURPOSE).await?;
    MemberSecret::new(answer.secret().clone())
        .ok_or_else(|| IdentityError::Key("the member key is not a secp256k1 scalar".to_owned()))
}

/// A guest agent whose KMS root, app key or node key is published is a simulator, whatever it calls itself: dstack's own one reports the
/// vendor of the machine that it runs on (`sys_vendor` of DMI).
fn is_simulated(vendor: &str, keys: [Address; 3]) -> bool {
    vendor == SIMULATED || keys.into_iter().any(|key| published_key(key).is_some())
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;
    use mesh_core::{key_claim::KeyClaim, proof::recover_own_chain};
    use serde_json::Value;

    use super::*;

    const CHAINS: &str = include_str!("../../contracts/test/vectors/chains.json");

    /// dstack's own simulator reports what the machine is called, not what it is itself.
    #[test]
    fn published_keys_are_a_simulators_whatever_the_vendor() {
        let chains: Value = serde_json::from_str(CHAINS).unwrap();
        for name in ["fixtureA", "fixtureB"] {
            let bytes = |field: &str| hex::decode(&chains[name][field].as_str().unwrap()[2..]).unwrap();
            let own = |node_key: &[u8]| {
                let node_key = SigningKey::from_slice(node_key).unwrap().verifying_key().to_encoded_point(true);
                let [app_signature, kms_signature] =
                    ["appSignature", "kmsSignature"].map(|field| bytes(field).try_into().unwrap());
                let app_id = AppId(bytes("appId").try_into().unwrap());
                let node_key = node_key.as_bytes().try_into().unwrap();
                let claim = KeyClaim::V0 { purpose: "test" };
                let own = recover_own_chain(app_id, claim, node_key, &app_signature, &kms_signature).unwrap();
                [own.kms_root, Address::from_raw_public_key(&own.chain.app_key), own.node_address]
            };
            let published = own(&bytes("nodeKey"));
            // With a key that they do not vouch for, the signatures lead to keys that are published nowhere.
            let unknown = own(&[7; 32]);
            assert!(is_simulated("SIMULATED", unknown));
            for vendor in ["", "QEMU", "Dell Inc.", "simulated"] {
                assert!(is_simulated(vendor, published) && !is_simulated(vendor, unknown), "{name} on `{vendor}`");
                for key in 0..3 {
                    let mut keys = unknown;
                    keys[key] = published[key];
                    assert!(is_simulated(vendor, keys), "key {key} of {name} alone");
                }
            }
        }
    }
}
