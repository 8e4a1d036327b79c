//! Who this node is: instance, app, node key, and the KMS root its keys come from, as the guest agent vouches for them, and the member
//! key, which no other instance has.

pub mod dstack;
pub mod keyfile;
pub mod member;
pub mod psk;
pub mod signer;

use std::path::Path;

use mesh_core::{
    development::published_key,
    gateway_access::GatewayAccess,
    id::{Address, AppId, B256, InstanceId},
    key_claim::{GuestApi, KeyClaim},
    proof::{OwnChain, Refusal, recover_own_chain},
    registration::{MEMBER_KEY_PURPOSE, NODE_KEY_PURPOSE, SignatureChain, member_key_path, node_key_path},
};
use mesh_tunnel::Secret;

use self::{
    dstack::{GuestAgent, GuestAgentError},
    keyfile::KeyFileError,
    member::MemberSecret,
    psk::PskRoot,
    signer::Signer,
};

/// `GetKey` path of the key from which preshared keys are derived.
const PSK_PATH: &str = "dstack-mesh/psk";
/// Its purpose; the chain of that key is never checked.
const PSK_PURPOSE: &str = "dstack-mesh-psk-v1";
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
    /// KMS root the own key chain recovers to: the first trust anchor.
    pub kms_root: Address,
    /// The chain that goes with every registration.
    pub chain: SignatureChain,
    /// Where preshared keys come from.
    pub psk_root: PskRoot,
    /// What makes a registration this node's own.
    pub member: MemberSecret,
    node_key: Signer,
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
        let answer = agent.get_key(&node_key_path(instance), NODE_KEY_PURPOSE).await?;
        let node_key = Signer::new(answer.secret().clone())
            .ok_or_else(|| IdentityError::Key("the key is not a secp256k1 scalar".to_owned()))?;
        let own = own_chain(app_id, &node_key, &answer.signature_chain)?;
        if let Some(expected) = expected.kms_root.filter(|expected| *expected != own.kms_root) {
            return Err(IdentityError::OtherRoot { expected, found: own.kms_root });
        }
        let psk = agent.get_key(PSK_PATH, PSK_PURPOSE).await?;
        let member = match member {
            MemberKeySource::Disk { state_dir, user } => keyfile::load_or_create_member(state_dir, user)?,
            MemberKeySource::GuestAgent => derived_member_key(agent, instance).await?,
        };
        Ok(Self {
            instance,
            app_id,
            compose_hash: info.compose_hash.parse().ok().filter(|hash: &B256| !hash.is_zero()),
            simulated: is_simulated(&info.cloud_vendor, &own),
            gateway_access: info.gateway_access(),
            kms_root: own.kms_root,
            chain: own.chain,
            psk_root: PskRoot::new(psk.secret().clone()),
            member,
            node_key,
        })
    }

    /// Address of the node key.
    #[must_use]
    pub const fn node_address(&self) -> Address {
        self.node_key.address()
    }

    /// Signs a digest with the node key: r ‖ s ‖ v, low s, v = 27 or 28.
    ///
    /// # Errors
    /// Does not happen with a local key; the signer's words.
    pub fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        self.node_key.sign(digest).map(|signature| signature.as_bytes())
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

async fn derived_member_key(agent: &GuestAgent, instance: InstanceId) -> Result<MemberSecret, IdentityError> {
    let answer = agent.get_key(&member_key_path(instance), MEMBER_KEY_PURPOSE).await?;
    MemberSecret::new(answer.secret().clone())
        .ok_or_else(|| IdentityError::Key("the member key is not a secp256k1 scalar".to_owned()))
}

/// A guest agent whose KMS root, app key or node key is published is a simulator, whatever it calls itself: dstack's own one reports the
/// vendor of the machine that it runs on (`sys_vendor` of DMI).
fn is_simulated(vendor: &str, own: &OwnChain) -> bool {
    let app_key = Address::from_raw_public_key(&own.chain.app_key);
    vendor == SIMULATED || [own.kms_root, app_key, own.node_address].into_iter().any(|key| published_key(key).is_some())
}

fn own_chain(app_id: AppId, node_key: &Signer, chain: &[Vec<u8>]) -> Result<OwnChain, IdentityError> {
    let [app_signature, kms_signature] = chain else {
        return Err(IdentityError::Key(format!("its signature chain has {} entries instead of 2", chain.len())));
    };
    if kms_signature.is_empty() {
        return Err(IdentityError::NoKms);
    }
    let sized = |name: &str, bytes: &[u8]| {
        <[u8; 65]>::try_from(bytes)
            .map_err(|_| IdentityError::Key(format!("the {name} signature has {} bytes instead of 65", bytes.len())))
    };
    let point = node_key.public_key().to_encoded_point(true);
    let compressed: [u8; 33] = point
        .as_bytes()
        .try_into()
        .map_err(|_| IdentityError::Key("the node key has no compressed form".to_owned()))?;
    let (app_signature, kms_signature) = (sized("app", app_signature)?, sized("KMS", kms_signature)?);
    let claim = KeyClaim::of_node_key(GuestApi::V0);
    Ok(recover_own_chain(app_id, claim, &compressed, &app_signature, &kms_signature)?)
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;
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
                recover_own_chain(app_id, "test", node_key, &app_signature, &kms_signature).unwrap()
            };
            let published = own(&bytes("nodeKey"));
            // With a key that they do not vouch for, the signatures lead to keys that are published nowhere.
            let unknown = own(&[7; 32]);
            assert!(is_simulated("SIMULATED", &unknown));
            for vendor in ["", "QEMU", "Dell Inc.", "simulated"] {
                assert!(is_simulated(vendor, &published) && !is_simulated(vendor, &unknown), "{name} on `{vendor}`");
                let elsewhere = OwnChain { kms_root: published.kms_root, ..unknown.clone() };
                assert!(is_simulated(vendor, &elsewhere), "the root of {name} alone");
                let elsewhere = OwnChain { chain: published.chain.clone(), ..unknown.clone() };
                assert!(is_simulated(vendor, &elsewhere), "the app key of {name} alone");
            }
        }
    }
}
