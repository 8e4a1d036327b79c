//! app-compose.json for Phala Cloud: what it is asked to write, and every text that it may make of it. It adds members of its own, and
//! which ones differs by version and machine; its compose hash proves which of the texts it wrote.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use mesh_core::place::Domain;
use serde_json::{Value, json};

use super::{Json, Normalized, PhalaText, UnclearNumber, compose_hash};

/// The longest compose file and script together, bytes: the limit of Phala Cloud's SDK.
const MAX_SOURCES: usize = 200 << 10;

/// Finds the gateway's base domain where the platform has put it: `${DSTACK_GATEWAY_DOMAIN}` in the compose file needs it.
pub(crate) const DEFAULT_SCRIPT: &str = r#"#!/bin/bash
# The gateway's base domain, where the environment does not name it.
for file in /dstack/user_config /dstack/app-compose.json; do
  if [ -z "${DSTACK_GATEWAY_DOMAIN:-}" ] && [ -r "$file" ]; then
    DSTACK_GATEWAY_DOMAIN="$(jq -r '.default_gateway_domain // empty' "$file" 2>/dev/null || true)"
  fi
done
export DSTACK_GATEWAY_DOMAIN="${DSTACK_GATEWAY_DOMAIN:-}"
"#;

/// What the operator has decided about the CVMs' software.
pub(crate) struct Sources {
    /// docker-compose.yml.
    pub(crate) compose_file: String,
    /// Run before it.
    pub(crate) script: String,
    /// Names of variables that may be set from outside, sorted.
    pub(crate) allowed_envs: Vec<String>,
    /// The containers' logs can be read by all.
    pub(crate) has_public_logs: bool,
    /// That of the gateway, where it is known beforehand.
    pub(crate) gateway: Option<Domain>,
}

/// What is sent, and what may come of it.
pub(crate) struct Rendered {
    /// The `compose_file` of a request.
    pub(crate) compose_file: Value,
    /// By compose hash, what of its own Phala Cloud wrote into it.
    pub(crate) texts: BTreeMap<B256, String>,
}

/// It is too long for Phala Cloud.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRendered {
    #[error("compose file and script have {0} bytes together, and Phala Cloud takes {MAX_SOURCES}")]
    TooLong(usize),
    #[error(transparent)]
    Number(#[from] UnclearNumber),
}

impl Sources {
    /// The name is left empty, so that all CVMs of the app share one compose hash.
    pub(crate) fn render(&self) -> Result<Rendered, NotRendered> {
        let length = self.compose_file.len() + self.script.len();
        if length > MAX_SOURCES {
            return Err(NotRendered::TooLong(length));
        }
        let compose_file = json!({
            "manifest_version": 2,
            "name": "",
            "runner": "docker-compose",
            "docker_compose_file": self.compose_file,
            "pre_launch_script": self.script,
            "allowed_envs": self.allowed_envs,
            "kms_enabled": true,
            "gateway_enabled": true,
            "no_instance_id": false,
            "public_logs": self.has_public_logs,
            "public_sysinfo": false,
            "public_tcbinfo": true,
            "secure_time": false,
        });
        Ok(Rendered { texts: self.texts(&compose_file)?, compose_file })
    }

    /// Every text that Phala Cloud may write: with and without each of its own members, and in both ways for characters above ASCII.
    /// None of them changes what runs.
    fn texts(&self, compose_file: &Value) -> Result<BTreeMap<B256, String>, UnclearNumber> {
        let mut own = vec![
            ("features", json!(["kms", "tproxy-net"])),
            ("local_key_provider_enabled", json!(false)),
            ("storage_fs", json!("zfs")),
            ("tproxy_enabled", json!(true)),
        ];
        own.extend(self.gateway.iter().map(|domain| ("default_gateway_domain", json!(domain.to_string()))));
        let is_ascii = compose_file.to_string().is_ascii();
        let mut texts = BTreeMap::new();
        for chosen in 0..1_u32 << own.len() {
            let chosen = own.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, member)| member);
            let mut document = compose_file.clone();
            let mut added = Vec::new();
            for (name, value) in chosen {
                document[*name] = value.clone();
                added.push(*name);
            }
            let document = Normalized::new(Json::from(document));
            for text in [PhalaText::AsItIs, PhalaText::Escaped] {
                if text == PhalaText::AsItIs || !is_ascii {
                    texts.insert(compose_hash(document.write(text)?.as_bytes()), added.join(", "));
                }
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_compose::Form;

    fn sources(compose_file: &str) -> Sources {
        Sources {
            compose_file: compose_file.to_owned(),
            script: DEFAULT_SCRIPT.to_owned(),
            allowed_envs: vec!["A".to_owned()],
            has_public_logs: false,
            gateway: None,
        }
    }

    #[test]
    fn the_hash_that_phala_cloud_names_proves_which_text_it_wrote() {
        let rendered = sources("services: {}\n").render().unwrap();
        let mut written = rendered.compose_file.clone();
        written["tproxy_enabled"] = json!(true);
        written["storage_fs"] = json!("zfs");
        let hash = |value: &Value| compose_hash(Form::Phala.write(&Json::from(value.clone())).unwrap().as_bytes());
        assert_eq!(rendered.texts[&hash(&written)], "storage_fs, tproxy_enabled");
        assert_eq!(rendered.texts[&hash(&rendered.compose_file)], "");
        assert_eq!(rendered.texts.len(), 16);
        written["docker_compose_file"] = json!("services: {evil: {}}\n");
        assert!(!rendered.texts.contains_key(&hash(&written)));
        written = rendered.compose_file.clone();
        written["allowed_envs"] = json!(["A", "LD_PRELOAD"]);
        assert!(!rendered.texts.contains_key(&hash(&written)));
    }

    #[test]
    fn what_is_known_beforehand_adds_texts() {
        let with_gateway = Sources { gateway: Some("gw.example".parse().unwrap()), ..sources("services: {}\n") };
        assert_eq!(with_gateway.render().unwrap().texts.len(), 32);
        assert_eq!(sources("# größe\n").render().unwrap().texts.len(), 32);
    }

    #[test]
    fn what_phala_cloud_would_not_take_is_refused_here() {
        assert!(matches!(sources(&"#".repeat(MAX_SOURCES)).render(), Err(NotRendered::TooLong(_))));
    }
}
