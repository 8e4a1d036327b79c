//! The messages, once: JSON (bytes as hex) and protobuf come from the same definition.
//!
//! Field names, tags and order are those of dstack's `agent_rpc.proto`; JSON keys come out in that order.

use std::fmt;

use prost::Message;
use serde::{Deserialize, Serialize};

/// What a method takes: every field has a default, unknown fields are ignored.
pub(crate) trait Request: Message + Default + for<'de> Deserialize<'de> {}
impl<T: Message + Default + for<'de> Deserialize<'de>> Request for T {}

/// What a method gives back.
pub(crate) trait Response: Message + Serialize {}
impl<T: Message + Serialize> Response for T {}

/// Methods without arguments or without a result.
#[derive(Clone, PartialEq, Message, Deserialize)]
pub(crate) struct Empty {}

impl Serialize for Empty {
    /// dstack answers `null`, which the Rust SDK insists on.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct GetTlsKeyArgs {
    #[prost(string, tag = "1")]
    pub(crate) subject: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) alt_names: Vec<String>,
    #[prost(bool, tag = "3")]
    pub(crate) usage_ra_tls: bool,
    #[prost(bool, tag = "4")]
    pub(crate) usage_server_auth: bool,
    #[prost(bool, tag = "5")]
    pub(crate) usage_client_auth: bool,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) not_before: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) not_after: Option<u64>,
    #[prost(bool, tag = "8")]
    pub(crate) with_app_info: bool,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct DeriveKeyArgs {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(string, tag = "2")]
    pub(crate) subject: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) alt_names: Vec<String>,
    #[prost(bool, tag = "4")]
    pub(crate) usage_ra_tls: bool,
    #[prost(bool, tag = "5")]
    pub(crate) usage_server_auth: bool,
    #[prost(bool, tag = "6")]
    pub(crate) usage_client_auth: bool,
    #[prost(bool, tag = "7")]
    pub(crate) random_seed: bool,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[prost(skip_debug)]
pub(crate) struct GetTlsKeyResponse {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) certificate_chain: Vec<String>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct GetKeyArgs {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(string, tag = "2")]
    pub(crate) purpose: String,
    #[prost(string, tag = "3")]
    pub(crate) algorithm: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[prost(skip_debug)]
pub(crate) struct GetKeyResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub(crate) signature_chain: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[prost(skip_debug)]
pub(crate) struct DeriveK256KeyResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) k256_key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub(crate) k256_signature_chain: Vec<Vec<u8>>,
}

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )*};
}
redacted!(GetTlsKeyResponse, GetKeyResponse, DeriveK256KeyResponse);

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct TdxQuoteArgs {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) report_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) hash_algorithm: String,
    #[prost(string, tag = "3")]
    pub(crate) prefix: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct RawQuoteArgs {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) report_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct TdxQuoteResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) quote: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) event_log: String,
    #[prost(string, tag = "3")]
    pub(crate) hash_algorithm: String,
    #[prost(string, tag = "4")]
    pub(crate) prefix: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct GetQuoteResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) quote: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) event_log: String,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub(crate) report_data: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) vm_config: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct AttestResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) attestation: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct EmitEventArgs {
    #[prost(string, tag = "1")]
    pub(crate) event: String,
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct AppInfo {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) app_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub(crate) instance_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) app_cert: String,
    #[prost(string, tag = "4")]
    pub(crate) tcb_info: String,
    #[prost(string, tag = "5")]
    pub(crate) app_name: String,
    #[prost(bytes = "vec", tag = "8")]
    #[serde(with = "hex_bytes")]
    pub(crate) device_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    #[serde(with = "hex_bytes")]
    pub(crate) mr_aggregated: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    #[serde(with = "hex_bytes")]
    pub(crate) os_image_hash: Vec<u8>,
    #[prost(string, tag = "12")]
    pub(crate) key_provider_info: String,
    #[prost(bytes = "vec", tag = "13")]
    #[serde(with = "hex_bytes")]
    pub(crate) compose_hash: Vec<u8>,
    #[prost(string, tag = "14")]
    pub(crate) vm_config: String,
    #[prost(string, tag = "15")]
    pub(crate) cloud_vendor: String,
    #[prost(string, tag = "16")]
    pub(crate) cloud_product: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct VersionResponse {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(string, tag = "2")]
    pub(crate) rev: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct SignRequest {
    #[prost(string, tag = "1")]
    pub(crate) algorithm: String,
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct SignResponse {
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub(crate) signature: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub(crate) signature_chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub(crate) public_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct VerifyRequest {
    #[prost(string, tag = "1")]
    pub(crate) algorithm: String,
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub(crate) data: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub(crate) signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    #[serde(with = "hex_bytes")]
    pub(crate) public_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct VerifyResponse {
    #[prost(bool, tag = "1")]
    pub(crate) valid: bool,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct AttestAppKeyArgs {
    #[prost(string, tag = "1")]
    pub(crate) algorithm: String,
}

/// An error as protobuf clients read it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProtoError {
    #[prost(string, tag = "1")]
    pub(crate) message: String,
}

/// Bytes in JSON: lower-case hex without `0x` out; hex of any case after any number of `0x` in.
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text.trim_start_matches("0x")).map_err(D::Error::custom)
    }
}

/// Lists of bytes in JSON: an array of hex strings.
pub(crate) mod hex_list {
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(hex::encode))
    }
}
