//! What the API answers, parsed once: shapes, ranges and lengths are checked here, and what is left of its words is safe to print.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use alloy_primitives::{Address, B256};
use mesh_core::{
    id::{AppId, InstanceId},
    place::Domain,
    text::escaped,
};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    error::{ApiError, Refusal},
    public_address::public_address,
};

/// The most characters of a name or a status that are shown.
const MAX_NAME: usize = 63;
/// The longest id in a path.
const MAX_ID: usize = 64;
/// The most entries of a list. A workspace of the highest tier has some dozens of CVMs.
const MAX_ENTRIES: usize = 1000;

/// A CVM in paths of the API: its UUID, or the API's own id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CvmId(String);

/// A machine of Phala Cloud's, which it calls node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u64);

/// One CVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cvm {
    pub(crate) id: CvmId,
    /// Safe to print.
    pub(crate) name: String,
    pub(crate) state: CvmState,
    /// The API's word for it, safe to print.
    pub(crate) status: String,
    /// An operation is under way.
    pub(crate) is_in_progress: bool,
    /// Once it has booted.
    pub(crate) instance: Option<InstanceId>,
    /// What the API says it runs: the contract's boot gate is asked about what it really runs.
    pub(crate) compose_hash: Option<B256>,
    pub(crate) gateway: Option<Domain>,
    pub(crate) node: Option<NodeId>,
}

/// What the API's many words for a CVM's status come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CvmState {
    Running,
    /// It starts, stops or updates.
    Changing,
    Stopped,
    Failed,
    /// Deleted: the list may still have it.
    Gone,
}

/// What `provision` says about a CVM that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provisioned {
    pub(crate) compose_hash: B256,
    /// Of the machine that was chosen: SHA-256 of its PPID.
    pub(crate) device_id: Option<B256>,
    pub(crate) node: Option<NodeId>,
    pub(crate) kms: KmsInfo,
}

/// A KMS that a contract decides for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KmsInfo {
    /// Its slug, or its id: what stands in paths.
    pub(crate) name: String,
    pub(crate) chain_id: u64,
    /// The DstackKms.
    pub(crate) contract: Address,
}

/// The key that the environment of an app's CVMs is encrypted to, and the KMS root's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvKey {
    /// X25519.
    pub(crate) public_key: [u8; 32],
    /// r ‖ s ‖ v.
    pub(crate) signature: [u8; 65],
}

/// A UDP port of the host that leads to one of the CVM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) vm_port: u16,
    pub(crate) host_port: u16,
    /// Where the API names a public address.
    pub(crate) host: Option<IpAddr>,
}

/// A change that waits for its compose hash to be allowed (HTTP status 465).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) compose_hash: B256,
    pub(crate) device_id: Option<B256>,
    /// Where it is committed by token.
    pub(crate) token: Option<CommitToken>,
}

/// It alone authorises a change: it cannot be printed, and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CommitToken(Zeroizing<String>);

impl fmt::Display for CvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CommitToken {
    /// For the request that commits.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CommitToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl CvmId {
    /// `None` for what would mean something else in a path.
    pub(crate) fn new(text: &str) -> Option<Self> {
        is_id(text).then(|| Self(text.to_owned()))
    }
}

impl CvmState {
    fn new(status: &str) -> Self {
        match status.to_ascii_lowercase().as_str() {
            "running" => Self::Running,
            "stopped" | "exited" | "shutdown" => Self::Stopped,
            "deleted" | "removed" | "terminated" | "deleting" | "removing" => Self::Gone,
            other if other.contains("fail") || other.contains("error") => Self::Failed,
            _ => Self::Changing,
        }
    }
}

impl Mapping {
    /// The endpoint that other nodes can use.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.host.map(|host| SocketAddr::new(host, self.host_port))
    }
}

/// The shape of API version 2026-01-21; older ones have the id as a number, and no compose hash.
#[derive(Deserialize)]
struct RawCvm {
    id: Value,
    name: String,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    vm_uuid: Option<String>,
    #[serde(default)]
    instance_id: Option<String>,
    status: String,
    #[serde(default)]
    in_progress: bool,
    #[serde(default)]
    compose_hash: Option<String>,
    #[serde(default)]
    gateway: Option<RawGateway>,
    #[serde(default)]
    node_info: Option<RawNode>,
}

#[derive(Deserialize)]
struct RawGateway {
    #[serde(default)]
    base_domain: Option<String>,
}

#[derive(Deserialize)]
struct RawNode {
    #[serde(default)]
    id: Option<u64>,
}

#[derive(Deserialize)]
struct RawProvisioned {
    compose_hash: String,
    #[serde(default)]
    device_id: Option<String>,
    #[serde(default, alias = "teepod_id")]
    node_id: Option<u64>,
    #[serde(default)]
    kms_info: Option<RawKms>,
}

#[derive(Deserialize)]
struct RawKmsList {
    items: Vec<RawKms>,
}

#[derive(Deserialize)]
struct RawKms {
    id: String,
    #[serde(default)]
    slug: Option<String>,
    #[serde(default)]
    chain_id: Option<u64>,
    #[serde(default)]
    kms_contract_address: Option<String>,
}

#[derive(Deserialize)]
struct RawEnvKey {
    public_key: String,
    signature: String,
}

#[derive(Deserialize)]
struct RawMapping {
    host_port: u16,
    vm_port: u16,
    protocol: String,
    host_address: String,
    #[serde(default)]
    public_host: Option<String>,
}

/// The CVMs of an app. Those that are gone are left out.
pub(super) fn cvms(answer: Value, app: AppId) -> Result<Vec<Cvm>, ApiError> {
    let raw: Vec<RawCvm> = parsed(answer, "the list of CVMs")?;
    bounded(raw.len(), "CVMs")?;
    let mut cvms = Vec::new();
    for raw in raw {
        let cvm = cvm(raw, app)?;
        if cvm.state != CvmState::Gone {
            cvms.push(cvm);
        }
    }
    let instances: BTreeSet<_> = cvms.iter().filter_map(|cvm| cvm.instance).collect();
    if instances.len() < cvms.iter().filter(|cvm| cvm.instance.is_some()).count() {
        return Err(ApiError::NotUnderstood("it lists two CVMs with one instance id".to_owned()));
    }
    cvms.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| one.id.cmp(&other.id)));
    Ok(cvms)
}

fn cvm(raw: RawCvm, app: AppId) -> Result<Cvm, ApiError> {
    let of_app: Option<AppId> = raw.app_id.as_deref().map(|text| hex_of("app id", text)).transpose()?.map(AppId);
    if let Some(other) = of_app.filter(|of_app| *of_app != app) {
        return Err(ApiError::NotUnderstood(format!("asked for CVMs of app {app}, it lists one of app {other}")));
    }
    let own_id = raw.id.as_str().map(str::to_owned).or_else(|| raw.id.as_u64().map(|number| number.to_string()));
    let id = raw.vm_uuid.filter(|uuid| !uuid.is_empty()).or(own_id);
    let id = id.as_deref().and_then(CvmId::new);
    let id = id.ok_or_else(|| ApiError::NotUnderstood("a CVM's id is none".to_owned()))?;
    let instance = raw.instance_id.filter(|text| !text.is_empty());
    let instance = instance.map(|text| hex_of("instance id", &text)).transpose()?.map(InstanceId);
    let compose_hash = raw.compose_hash.filter(|text| !text.is_empty());
    let compose_hash = compose_hash.map(|text| hex_of("compose hash", &text)).transpose()?.map(B256::new);
    let gateway = raw.gateway.and_then(|gateway| gateway.base_domain).and_then(|domain| domain.parse().ok());
    Ok(Cvm {
        id,
        name: escaped(&raw.name, MAX_NAME),
        state: CvmState::new(&raw.status),
        status: escaped(&raw.status, MAX_NAME),
        is_in_progress: raw.in_progress,
        instance,
        compose_hash,
        gateway,
        node: raw.node_info.and_then(|node| node.id).map(NodeId),
    })
}

pub(super) fn provisioned(answer: Value) -> Result<Provisioned, ApiError> {
    let raw: RawProvisioned = parsed(answer, "its answer to `provision`")?;
    let device_id = raw.device_id.filter(|text| !text.is_empty());
    let kms = raw.kms_info.map(kms).transpose()?.flatten();
    let kms = kms.ok_or_else(|| ApiError::NotUnderstood("the KMS that it chose belongs to no chain".to_owned()))?;
    Ok(Provisioned {
        compose_hash: B256::new(hex_of("compose hash", &raw.compose_hash)?),
        device_id: device_id.map(|text| hex_of("device id", &text)).transpose()?.map(B256::new),
        node: raw.node_id.map(NodeId),
        kms,
    })
}

/// Those that a contract decides for.
pub(super) fn kms_list(answer: Value) -> Result<Vec<KmsInfo>, ApiError> {
    let raw: RawKmsList = parsed(answer, "the list of KMS instances")?;
    bounded(raw.items.len(), "KMS instances")?;
    raw.items.into_iter().filter_map(|raw| kms(raw).transpose()).collect()
}

/// `None`: no contract decides for it.
fn kms(raw: RawKms) -> Result<Option<KmsInfo>, ApiError> {
    let (Some(chain_id), Some(contract)) = (raw.chain_id, raw.kms_contract_address) else { return Ok(None) };
    let name = raw.slug.filter(|slug| is_id(slug)).unwrap_or(raw.id);
    if !is_id(&name) {
        return Err(ApiError::NotUnderstood("the id of a KMS is none".to_owned()));
    }
    Ok(Some(KmsInfo { name, chain_id, contract: Address::new(hex_of("address of the KMS contract", &contract)?) }))
}

pub(super) fn env_key(answer: Value) -> Result<EnvKey, ApiError> {
    let raw: RawEnvKey = parsed(answer, "the key for the environment")?;
    Ok(EnvKey {
        public_key: hex_of("key for the environment", &raw.public_key)?,
        signature: hex_of("signature of the key for the environment", &raw.signature)?,
    })
}

/// Of UDP alone.
pub(super) fn mappings(answer: Value) -> Result<Vec<Mapping>, ApiError> {
    let raw: Vec<RawMapping> = parsed(answer, "the list of ports")?;
    bounded(raw.len(), "ports")?;
    let udp = raw.into_iter().filter(|raw| raw.protocol.eq_ignore_ascii_case("udp"));
    Ok(udp
        .map(|raw| {
            let addresses = [raw.public_host.as_deref(), Some(raw.host_address.as_str())];
            let mut addresses = addresses.into_iter().flatten().filter_map(|text| text.parse().ok());
            let host = addresses.find_map(public_address);
            Mapping { vm_port: raw.vm_port, host_port: raw.host_port, host }
        })
        .collect())
}

pub(super) fn prepared(refusal: &Refusal) -> Result<Prepared, ApiError> {
    let text = |name: &str| refusal.text(name).filter(|text| !text.is_empty());
    let compose_hash = text("compose_hash");
    let compose_hash = compose_hash
        .ok_or_else(|| ApiError::NotUnderstood("it wants a compose hash allowed and names none".to_owned()))?;
    let token = ["commit_token", "token"].iter().find_map(|name| text(name)).filter(|token| token.len() <= 4096);
    Ok(Prepared {
        compose_hash: B256::new(hex_of("compose hash", compose_hash)?),
        device_id: text("device_id").map(|text| hex_of("device id", text)).transpose()?.map(B256::new),
        token: token.map(|token| CommitToken(Zeroizing::new(token.to_owned()))),
    })
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(answer: Value, what: &str) -> Result<T, ApiError> {
    serde_json::from_value(answer).map_err(|error| ApiError::NotUnderstood(format!("{what}: {error}")))
}

fn bounded(count: usize, what: &str) -> Result<(), ApiError> {
    if count <= MAX_ENTRIES { Ok(()) } else { Err(ApiError::NotUnderstood(format!("it lists {count} {what}"))) }
}

/// Bytes in hex, with or without `0x`, as many as there have to be.
fn hex_of<const N: usize>(what: &str, text: &str) -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    let digits = text.strip_prefix("0x").unwrap_or(text);
    match hex::decode_to_slice(digits, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(ApiError::NotUnderstood(format!("the {what} is not {N} bytes in hex: `{}`", escaped(text, 80)))),
    }
}

fn is_id(text: &str) -> bool {
    let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(is_of_id)
}
