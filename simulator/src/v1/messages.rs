//! The messages of the guest API v1: names, tags and order of `agent_rpc_v1.proto`.

use std::fmt;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::wire::{hex_bytes, hex_list};

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct GetKeyRequest {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(string, tag = "2")]
    pub(crate) algorithm: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[prost(skip_debug)]
pub(crate) struct GetKeyResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub(crate) public_key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    #[serde(with = "hex_list")]
    pub(crate) signature_chain: Vec<Vec<u8>>,
}

impl fmt::Debug for GetKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetKeyResponse([redacted])")
    }
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct AttestRequest {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) report_data: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub(crate) include_boottime_gpu_evidence: bool,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct AttestResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) attestation: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) boottime_gpu_evidence: Vec<GpuEvidenceBundle>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct GpuEvidenceBundle {
    #[prost(string, tag = "1")]
    pub(crate) vendor: String,
    #[prost(string, tag = "2")]
    pub(crate) format: String,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub(crate) evidence: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct AttestGpuRequest {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) nonce: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct AttestGpuResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) bundles: Vec<GpuEvidenceBundle>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct InfoResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) app_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) app_name: String,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub(crate) compose_hash: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) app_compose: String,
    #[prost(bytes = "vec", tag = "5")]
    #[serde(with = "hex_bytes")]
    pub(crate) instance_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    #[serde(with = "hex_bytes")]
    pub(crate) device_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    #[serde(with = "hex_bytes")]
    pub(crate) os_image_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    #[serde(with = "hex_bytes")]
    pub(crate) mr_aggregated: Vec<u8>,
    #[prost(string, tag = "9")]
    pub(crate) vm_config: String,
    #[prost(string, tag = "10")]
    pub(crate) key_provider_info: String,
    #[prost(string, tag = "11")]
    pub(crate) cloud_vendor: String,
    #[prost(string, tag = "12")]
    pub(crate) cloud_product: String,
}

/// A simulated app is healthy, so nothing is listed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct HealthResponse {
    #[prost(bool, tag = "1")]
    pub(crate) healthy: bool,
    #[prost(message, repeated, tag = "2")]
    pub(crate) unhealthy: Vec<UnhealthyContainer>,
    #[prost(string, tag = "3")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct UnhealthyContainer {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) status: String,
}
