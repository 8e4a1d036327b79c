//! A client of the dstack guest agent, over its unix socket or an http URL: guest API v0 (`Info`, `GetKey`, `GetTlsKey`; every version
//! from 0.5.0 on has them) and v1 (`Info`, `GetKey`, `IssueCert`; from 0.6 on, beside v0). Answers hold keys, so nothing of them is
//! logged and their buffers are wiped.

mod app_compose;
mod find;
mod http;
mod tappd;

use std::{fmt, time::Duration};

use mesh_core::{gateway_access::GatewayAccess, key_claim::GuestApi};
use mesh_tunnel::Secret;
use serde::{
    Deserialize,
    de::{DeserializeOwned, Visitor},
};
use serde_json::json;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use find::{Endpoint, NotFound, find};

/// How long one call may take: a real agent may have to ask its KMS.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The method that says whether an API is there.
const VERSION: &str = "Version";

/// The guest agent of this CVM.
#[derive(Debug, Clone)]
pub struct GuestAgent {
    endpoint: Endpoint,
    api: GuestApi,
}

/// Why the guest agent could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum GuestAgentError {
    /// No answer in time.
    #[error(
        "the guest agent at {endpoint} did not answer {method} within {} s\nhint: is this CVM's KMS reachable? see the logs of dstack-guest-agent",
        CALL_TIMEOUT.as_secs()
    )]
    Timeout {
        /// Socket or URL.
        endpoint: Endpoint,
        /// The call.
        method: &'static str,
    },
    /// No connection, or no HTTP.
    #[error(
        "cannot call {method} of the guest agent at {endpoint}: {reason}\nhint: is `{endpoint}` the dstack guest agent's socket, mounted into this container?"
    )]
    Transport {
        /// Socket or URL.
        endpoint: Endpoint,
        /// The call.
        method: &'static str,
        /// What the system said.
        reason: String,
    },
    /// It is the guest agent's older API, which does not have this call.
    #[error(
        "{endpoint} is tappd's socket, the guest agent's older API: it has no {method}\nhint: mount and name /var/run/dstack.sock, which dstack 0.5.0 and later has beside it"
    )]
    Tappd {
        /// Socket or URL.
        endpoint: Endpoint,
        /// The call.
        method: &'static str,
    },
    /// It answered with an error.
    #[error(
        "the guest agent at {endpoint} refused {method}: {reason}\nhint: these are the guest agent's own words; its log says more, and the app's KMS settings decide which keys it gives out"
    )]
    Refused {
        /// Socket or URL.
        endpoint: Endpoint,
        /// The call.
        method: &'static str,
        /// Its words.
        reason: String,
    },
    /// The answer is invalid.
    #[error(
        "the guest agent at {endpoint} answered {method} with something else than expected: {reason}\nhint: dstack 0.5.0 or later is needed"
    )]
    InvalidResponse {
        /// Socket or URL.
        endpoint: Endpoint,
        /// The call.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The parts of `Info` that are used. Hex without `0x`, as sent.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// 20 bytes of hex.
    pub app_id: String,
    /// 20 bytes of hex, or empty.
    #[serde(default)]
    pub instance_id: String,
    /// 32 bytes of hex.
    #[serde(default)]
    pub compose_hash: String,
    /// The simulator says `SIMULATED`.
    #[serde(default)]
    pub cloud_vendor: String,
    /// JSON, with the deployment document in it.
    #[serde(default)]
    tcb_info: String,
    /// The deployment document itself, in the API v1.
    #[serde(default)]
    app_compose: String,
}

impl Info {
    /// What the deployment document says of the gateway, where it is shown.
    #[must_use]
    pub fn gateway_access(&self) -> Option<GatewayAccess> {
        app_compose::gateway_access(&self.tcb_info, &self.app_compose)
    }
}

/// A derived secp256k1 key with the signatures that vouch for it.
#[derive(Deserialize)]
pub struct DerivedKey {
    #[serde(deserialize_with = "secret_bytes")]
    key: Secret,
    /// `[0]` app key over this key, `[1]` KMS root over the app key (empty without a KMS).
    #[serde(with = "hex_list")]
    pub signature_chain: Vec<Vec<u8>>,
}

impl DerivedKey {
    /// The 32 bytes.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.key
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A TLS key, drawn for this call, and its certificate from the app's authority. The key is wiped when dropped.
#[derive(Deserialize)]
pub struct TlsKey {
    #[serde(deserialize_with = "secret_text")]
    key: Zeroizing<String>,
    /// PEM: the key's certificate, then those above it.
    pub certificate_chain: Vec<String>,
}

impl TlsKey {
    /// The key: PKCS #8 in PEM.
    #[must_use]
    pub const fn secret(&self) -> &Zeroizing<String> {
        &self.key
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// The answer to `Version`: that it is one is enough.
#[derive(Deserialize)]
struct Version {
    #[serde(rename = "version")]
    _version: String,
}

impl GuestAgent {
    /// A client of guest API v0; connects at each call.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, api: GuestApi::V0 }
    }

    /// A client of the newest guest API that is there: v1 where that says its version, else v0.
    ///
    /// # Errors
    /// See [`GuestAgentError`].
    pub async fn detect(endpoint: Endpoint) -> Result<Self, GuestAgentError> {
        let agent = Self::new(endpoint);
        let answer = agent.exchange(GuestApi::V1, VERSION, "{}").await?;
        let api = match answer.status {
            // Nothing is mounted there, or no such method; the status was 400 for both once.
            400 | 404 => GuestApi::V0,
            _ => {
                let Version { .. } = agent.read(VERSION, &answer)?;
                GuestApi::V1
            }
        };
        Ok(Self { api, ..agent })
    }

    /// Which guest API it is asked by. Keys of v0 are asked for by v0 in any case.
    #[must_use]
    pub const fn api(&self) -> GuestApi {
        self.api
    }

    /// Where it is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What this CVM is.
    ///
    /// # Errors
    /// See [`GuestAgentError`].
    pub async fn info(&self) -> Result<Info, GuestAgentError> {
        self.call(self.api, "Info", &json!({})).await
    }

    /// The secp256k1 key of a path in guest API v0, the same for every instance of the app, and its signature chain for `purpose`.
    ///
    /// # Errors
    /// See [`GuestAgentError`].
    pub async fn get_key(&self, path: &str, purpose: &str) -> Result<DerivedKey, GuestAgentError> {
        let arguments = json!({ "path": path, "purpose": purpose, "algorithm": "secp256k1" });
        self.call(GuestApi::V0, "GetKey", &arguments).await
    }

    /// The secp256k1 key of a domain in guest API v1, the same for every instance of the app and none of v0, and its signature chain.
    ///
    /// # Errors
    /// See [`GuestAgentError`].
    pub async fn get_key_of_domain(&self, domain: &str) -> Result<DerivedKey, GuestAgentError> {
        self.call(GuestApi::V1, "GetKey", &json!({ "domain": domain, "algorithm": "secp256k1" })).await
    }

    /// A TLS server key and certificate for a host name.
    ///
    /// # Errors
    /// See [`GuestAgentError`].
    pub async fn get_tls_key(&self, name: &str) -> Result<TlsKey, GuestAgentError> {
        // A common name has 64 characters at most (RFC 5280, appendix A.1); host names behind a gateway are longer.
        let arguments = json!({ "subject": "p2p-agent", "alt_names": [name], "usage_server_auth": true });
        let method = match self.api {
            GuestApi::V0 => "GetTlsKey",
            GuestApi::V1 => "IssueCert",
        };
        self.call(self.api, method, &arguments).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        api: GuestApi,
        method: &'static str,
        arguments: &serde_json::Value,
    ) -> Result<T, GuestAgentError> {
        let answer = self.exchange(api, method, &arguments.to_string()).await?;
        if answer.status == 404 && timeout(CALL_TIMEOUT, tappd::is_there(&self.endpoint)).await.unwrap_or(false) {
            return Err(GuestAgentError::Tappd { endpoint: self.endpoint.clone(), method });
        }
        self.read(method, &answer)
    }

    async fn exchange(
        &self,
        api: GuestApi,
        method: &'static str,
        arguments: &str,
    ) -> Result<http::Answer, GuestAgentError> {
        let endpoint = || self.endpoint.clone();
        let path = match api {
            GuestApi::V0 => method.to_owned(),
            GuestApi::V1 => format!("v1/{method}"),
        };
        timeout(CALL_TIMEOUT, http::post(&self.endpoint, &path, arguments))
            .await
            .map_err(|_| GuestAgentError::Timeout { endpoint: endpoint(), method })?
            .map_err(|error| GuestAgentError::Transport { endpoint: endpoint(), method, reason: error.to_string() })
    }

    fn read<T: DeserializeOwned>(&self, method: &'static str, answer: &http::Answer) -> Result<T, GuestAgentError> {
        let endpoint = || self.endpoint.clone();
        if answer.status != 200 {
            let refusal = serde_json::from_slice::<Refusal>(&answer.body).map(|refusal| refusal.error);
            let reason =
                refusal.unwrap_or_else(|_| format!("HTTP status {}", answer.status)).chars().take(300).collect();
            return Err(GuestAgentError::Refused { endpoint: endpoint(), method, reason });
        }
        // serde's words may quote the answer, and the answer may be a key: only the place of the error is reported.
        serde_json::from_slice(&answer.body).map_err(|error| {
            let reason = format!("not the JSON of {method} (line {}, column {})", error.line(), error.column());
            GuestAgentError::InvalidResponse { endpoint: endpoint(), method, reason }
        })
    }
}

/// Straight from the answer's buffer to where it stays. Hex needs no escapes, for which the parser would copy it.
fn secret_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    struct Hex;
    impl<'de> Visitor<'de> for Hex {
        type Value = Secret;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("32 bytes of hex")
        }
        fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Secret, E> {
            Secret::fill(|bytes| hex::decode_to_slice(text, bytes))
                .map_err(|_| E::custom("the key is not 32 bytes of hex"))
        }
    }
    deserializer.deserialize_str(Hex)
}

fn secret_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

mod hex_list {
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| hex::decode(text).map_err(|_| D::Error::custom("a signature is not hex"))).collect()
    }
}
