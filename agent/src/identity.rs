//! Who this node is: instance, app, node key, and the KMS root its keys come from, as the guest agent vouches for them, and the member
//! key, which no other instance has.

pub mod attested;
pub mod dstack;
pub mod keyfile;
pub mod member;
pub mod node_key;
pub mod psk;
pub mod signer;
pub mod tls;

use std::path::{Path, PathBuf};

use mesh_core::{
    gateway_access::GatewayAccess,
    id::{Address, AppId, B256, InstanceId},
    key_claim::GuestApi,
    proof::Refusal,
    registration::{MEMBER_KEY_PURPOSE, member_key_path},
};
use mesh_tunnel::Secret;

use self::{
    attested::Attested,
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
        let Attested {
            instance,
            app_id,
            compose_hash,
            simulated,
            gateway_access,
            guest_api,
            kms_root,
            psk_root,
            node_key,
            candidate,
            outlook: _,
        } = Attested::ask(agent, expected, member).await?;
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
            compose_hash,
            simulated,
            gateway_access,
            guest_api,
            kms_root,
            psk_root,
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
