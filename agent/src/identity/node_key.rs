//! The node key, of guest API v0 or v1. Which one is decided once, before it can be shown to the contract, and kept on disk: a new
//! version of the guest agent or of the contract changes no node's keys.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    path::Path,
};

use mesh_core::{
    id::{Address, AppId, InstanceId},
    key_claim::{GuestApi, KeyClaim},
    proof::{OwnChain, recover_own_chain},
    registration::{NODE_KEY_DOMAIN, NODE_KEY_PURPOSE, SignatureChain, node_key_path},
};

use super::{
    IdentityError, MemberKeySource,
    dstack::{DerivedKey, GuestAgent},
    keyfile::{self, KeyFileError},
    signer::Signer,
};
use crate::state::dir::{open_regular, replace};

/// File name inside the state directory; the content is `v0` or `v1`.
const FILE_NAME: &str = "node-key.api";
/// More than either word with a line's end.
const MAX_LENGTH: u64 = 8;

/// A node key with the chain that leads to it. Its secret cannot be printed.
#[derive(Debug)]
pub struct NodeKey {
    pub(super) signer: Signer,
    /// What goes with every registration.
    pub chain: SignatureChain,
    /// The guest API that gave it.
    pub api: GuestApi,
    /// Where the chain begins.
    pub kms_root: Address,
}

impl NodeKey {
    /// With v1 it is that of the app, with v0 that of the instance.
    async fn ask(
        agent: &GuestAgent,
        api: GuestApi,
        app_id: AppId,
        instance: InstanceId,
    ) -> Result<Self, IdentityError> {
        let answer = match api {
            GuestApi::V0 => agent.get_key(&node_key_path(instance), NODE_KEY_PURPOSE).await?,
            GuestApi::V1 => agent.get_key_of_domain(NODE_KEY_DOMAIN).await?,
        };
        let signer = Signer::new(answer.secret().clone())
            .ok_or_else(|| IdentityError::Key("the key is not a secp256k1 scalar".to_owned()))?;
        let OwnChain { chain, kms_root, .. } = own_chain(app_id, api, &signer, &answer)?;
        Ok(Self { signer, chain, api, kms_root })
    }

    /// The addresses of the keys in its chain: the KMS root, the app key and its own.
    pub(super) fn keys(&self) -> [Address; 3] {
        [self.kms_root, Address::from_raw_public_key(&self.chain.app_key), self.signer.address()]
    }
}

/// Which node key a node has, or what decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Its state directory says: decided once, or of a version that knew v0 alone.
    Kept(GuestApi),
    /// Its own keys are derived: nothing would keep a decision, so that it is v0.
    Derived,
    /// A new node: v1 where guest agent and contract have it, else v0.
    New,
}

impl Outlook {
    /// Reads the state directory, where there is one.
    pub(super) fn of(member: MemberKeySource<'_>) -> Result<Self, KeyFileError> {
        match member {
            MemberKeySource::Disk { state_dir, .. } => Ok(kept(state_dir)?.map_or(Self::New, Self::Kept)),
            MemberKeySource::GuestAgent => Ok(Self::Derived),
        }
    }

    /// Why a new node whose guest agent has v1 takes the node key that it takes, by what the RPC endpoints said of the contract.
    #[must_use]
    pub const fn of_new_node(contract_takes_v1: Option<bool>) -> &'static str {
        match contract_takes_v1 {
            Some(true) => "guest agent and contract have v1",
            Some(false) => "the contract takes v0 alone",
            None => "the RPC endpoints do not say whether the contract takes v1",
        }
    }
}

/// Asks for the node key that this node has; a new node's is that of v0, with that of v1 beside it where the guest agent has one.
pub(super) async fn ask(
    agent: &GuestAgent,
    outlook: Outlook,
    member: MemberKeySource<'_>,
    (app_id, instance): (AppId, InstanceId),
) -> Result<(NodeKey, Option<NodeKey>), IdentityError> {
    let key = |api| NodeKey::ask(agent, api, app_id, instance);
    match (outlook, agent.api(), member) {
        (Outlook::Kept(GuestApi::V1), GuestApi::V0, MemberKeySource::Disk { state_dir, .. }) => {
            let (endpoint, file) = (agent.endpoint().clone(), state_dir.join(FILE_NAME));
            Err(IdentityError::NoGuestV1 { endpoint, file })
        }
        (Outlook::Kept(api), ..) => Ok((key(api).await?, None)),
        (Outlook::Derived, ..) | (Outlook::New, GuestApi::V0, _) => Ok((key(GuestApi::V0).await?, None)),
        (Outlook::New, GuestApi::V1, _) => {
            let (v0, v1) = (key(GuestApi::V0).await?, key(GuestApi::V1).await?);
            if v0.kms_root != v1.kms_root || v0.chain.app_key != v1.chain.app_key {
                return Err(IdentityError::TwoApps);
            }
            Ok((v0, Some(v1)))
        }
    }
}

fn own_chain(app_id: AppId, api: GuestApi, key: &Signer, answer: &DerivedKey) -> Result<OwnChain, IdentityError> {
    let chain = &answer.signature_chain;
    let [app_signature, kms_signature] = &chain[..] else {
        return Err(IdentityError::Key(format!("its signature chain has {} entries instead of 2", chain.len())));
    };
    if kms_signature.is_empty() {
        return Err(IdentityError::NoKms);
    }
    let sized = |name: &str, bytes: &[u8]| {
        <[u8; 65]>::try_from(bytes)
            .map_err(|_| IdentityError::Key(format!("the {name} signature has {} bytes instead of 65", bytes.len())))
    };
    let point = key.public_key().to_encoded_point(true);
    let compressed: [u8; 33] = point
        .as_bytes()
        .try_into()
        .map_err(|_| IdentityError::Key("the node key has no compressed form".to_owned()))?;
    let (app_signature, kms_signature) = (sized("app", app_signature)?, sized("KMS", kms_signature)?);
    Ok(recover_own_chain(app_id, KeyClaim::of_node_key(api), &compressed, &app_signature, &kms_signature)?)
}

/// Which node key this state directory's node has; `None` for a new node, which has no member key yet. One that has a member key and
/// nothing of this is of a version that knew v0 alone, or was ended before it was decided: v0.
fn kept(state_dir: &Path) -> Result<Option<GuestApi>, KeyFileError> {
    let path = state_dir.join(FILE_NAME);
    let file = match open_regular(OpenOptions::new().read(true), &path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(keyfile::has_member_key(state_dir).then_some(GuestApi::V0));
        }
        Err(source) => return Err(KeyFileError::Io { what: "read", path, source }),
    };
    let mut text = String::new();
    if let Err(source) = file.take(MAX_LENGTH).read_to_string(&mut text) {
        return Err(KeyFileError::Io { what: "read", path, source });
    }
    match text.trim_end() {
        "v0" => Ok(Some(GuestApi::V0)),
        "v1" => Ok(Some(GuestApi::V1)),
        _ => Err(KeyFileError::NoGuestApi { path }),
    }
}

/// Keeps what was decided; where that is done already, it stays as it is.
pub(super) fn keep(state_dir: &Path, api: GuestApi) -> Result<(), KeyFileError> {
    let path = state_dir.join(FILE_NAME);
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    let written = replace(state_dir, FILE_NAME, format!("{api}\n").as_bytes());
    written.map_err(|source| KeyFileError::Io { what: "write", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_was_decided_is_kept_and_only_a_new_node_is_undecided() {
        let dir = Scratch::new();
        assert_eq!(kept(dir.path()).unwrap(), None, "a new node");
        for later in [GuestApi::V1, GuestApi::V0] {
            keep(dir.path(), later).unwrap();
            assert_eq!(kept(dir.path()).unwrap(), Some(GuestApi::V1), "decided once");
        }
        let before = Scratch::new();
        keyfile::load_or_create_member(before.path(), rustix::process::geteuid().as_raw()).unwrap();
        assert_eq!(kept(before.path()).unwrap(), Some(GuestApi::V0), "a node of a version before");
    }

    #[test]
    fn a_file_that_says_something_else_is_named_and_left_alone() {
        let dir = Scratch::new();
        let path = dir.path().join(FILE_NAME);
        for content in ["", "v2", "v1 v0", "v1111111111111"] {
            fs::write(&path, content).unwrap();
            let error = kept(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE_NAME) && error.contains("hint:"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/status", &path).unwrap();
        assert!(matches!(kept(dir.path()), Err(KeyFileError::Io { .. })));
    }
}
