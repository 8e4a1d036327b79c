//! The app's deployment document, app-compose.json, of which the hash is measured and a few fields count.

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An app-compose document, as deployed.
pub(crate) struct Compose {
    pub(crate) text: String,
    /// SHA-256 of the text.
    pub(crate) hash: [u8; 32],
    /// Whether the Worker shows documents to everyone.
    pub(crate) public_tcbinfo: bool,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default = "yes")]
    public_tcbinfo: bool,
}

const fn yes() -> bool {
    true
}

impl Compose {
    /// Takes the document's text.
    ///
    /// # Errors
    /// When it is no JSON object, or a field that counts has another type.
    pub(crate) fn parse(text: String) -> Result<Self, serde_json::Error> {
        let Fields { public_tcbinfo } = serde_json::from_str(&text)?;
        let hash = Sha256::digest(&text).into();
        Ok(Self { text, hash, public_tcbinfo })
    }

    /// An app without services, which the gateway serves and whose documents are public.
    pub(crate) fn simulated() -> Self {
        let text = json!({
            "manifest_version": 2,
            "name": "SIMULATED",
            "runner": "docker-compose",
            "docker_compose_file": "services: {}\n",
            "kms_enabled": true,
            "gateway_enabled": true,
            "public_logs": true,
            "public_sysinfo": true,
        })
        .to_string();
        let hash = Sha256::digest(&text).into();
        Self { text, hash, public_tcbinfo: true }
    }
}
