//! `/v1/tls/config`: by which keys the members of the moment are known.

use std::{path::PathBuf, time::Duration};

use mesh_core::id::{B256, TokenId};
use serde::Deserialize;

/// What is understood.
pub(crate) const SCHEMA: &str = "p2p-agent.tls/v1";

/// Another member of the moment, and the key by which it is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct TlsMember {
    /// Its NFT.
    pub token_id: TokenId,
    /// `node-<token>`, or the name that this node's operator gave it.
    pub name: String,
    /// The SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub spki_sha256: B256,
    /// Where its `--front` is; `None` for one that can call, and not be called.
    pub url: Option<String>,
    /// The host of the URL, and the server name to ask for.
    pub host: Option<String>,
    /// The TCP port.
    pub port: Option<u16>,
}

/// One answer.
#[derive(Debug, Deserialize)]
pub(crate) struct TlsConfig {
    #[serde(rename = "self")]
    pub(super) own: Own,
    /// Milliseconds for which `members` may be believed from when it was read; without end where there are none.
    valid_for_ms: Option<u64>,
    /// Ascending by token.
    pub(super) members: Vec<TlsMember>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Own {
    /// PEM.
    pub(super) certificate: String,
    /// PEM; none where the agent could not write it.
    pub(super) private_key_file: Option<PathBuf>,
}

impl TlsConfig {
    pub(super) fn find(&self, token: TokenId) -> Option<&TlsMember> {
        self.members.iter().find(|member| member.token_id == token)
    }

    pub(super) fn pin(&self, token: TokenId) -> Option<B256> {
        self.find(token).map(|member| member.spki_sha256)
    }

    pub(super) fn valid_for(&self) -> Option<Duration> {
        self.valid_for_ms.map(Duration::from_millis)
    }
}
