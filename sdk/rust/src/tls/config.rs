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

impl TlsMember {
    /// The name of its front at that port of its own (`6379` of `p2p-agent --front 6379=…`), by which its gateway finds it: another one than
    /// that in its URL. `None` where its host has not the form `<instance>-<port>s.<domain>`.
    #[must_use]
    pub fn host_of(&self, front: u16) -> Option<String> {
        let (label, domain) = self.host.as_deref()?.split_once('.')?;
        let (instance, port) = label.strip_suffix('s')?.rsplit_once('-')?;
        let is_form = instance.len() == 40 && port.parse::<u16>().is_ok();
        is_form.then(|| format!("{instance}-{front}s.{domain}"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_front_has_the_name_with_its_port() {
        let member = |host: &str| TlsMember {
            token_id: TokenId::new(7).unwrap(),
            name: "node-7".to_owned(),
            spki_sha256: B256::ZERO,
            url: None,
            host: Some(host.to_owned()),
            port: Some(443),
        };
        let instance = "ab".repeat(20);
        let host = member(&format!("{instance}-8443s.gw.example")).host_of(6379);
        assert_eq!(host, Some(format!("{instance}-6379s.gw.example")));
        for other in
            ["localhost", "x-8443s.gw.example", &format!("{instance}-8443.gw.example"), &format!("{instance}s.gw")]
        {
            assert_eq!(member(other).host_of(6379), None, "{other}");
        }
    }
}
