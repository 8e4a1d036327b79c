//! app-compose.json, the document that a CVM boots with: how each of dstack's tools writes it, and what it hashes to. Pure.

mod form;
mod images;
mod json;
mod render;

pub(crate) use form::{Form, Normalized, PhalaText, UnclearNumber};
pub(crate) use images::require_digests;
pub(crate) use json::Json;
pub(crate) use render::{DEFAULT_SCRIPT, Rendered, Sources};

use alloy_primitives::B256;
use sha2::{Digest as _, Sha256};

/// The longest document that is read, bytes. Phala Cloud takes 200 KiB of compose file and script.
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;

/// Members of which every app-compose.json has one, and no docker-compose.yml.
const TELLING: [&str; 4] = ["runner", "manifest_version", "docker_compose_file", "bash_script"];

/// What is no app-compose.json, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAppCompose {
    #[error(
        "it is a docker-compose.yml, which is one string inside of app-compose.json and has no compose hash of its own"
    )]
    DockerCompose,
    #[error("it is not JSON: {0}")]
    NotJson(String),
    #[error(
        "it is JSON, and no app-compose.json: it has none of `runner`, `manifest_version`, `docker_compose_file`, `bash_script`"
    )]
    Other,
}

/// The compose hash of a document: dstack hashes the bytes of the file as they are (SHA-256), in whatever form they were written.
pub(crate) fn compose_hash(document: &[u8]) -> B256 {
    B256::from_slice(&Sha256::digest(document))
}

/// The document in a file, its members in the file's order.
///
/// # Errors
/// It is something else: most often the docker-compose.yml.
pub(crate) fn parse(text: &str) -> Result<Json, NotAppCompose> {
    let document: Json = match serde_json::from_str(text) {
        Ok(document) => document,
        Err(_) if text.lines().any(|line| line.starts_with("services:")) => return Err(NotAppCompose::DockerCompose),
        Err(error) => return Err(NotAppCompose::NotJson(error.to_string())),
    };
    if TELLING.iter().any(|name| document.get(name).is_some()) {
        Ok(document)
    } else if document.get("services").is_some() {
        Err(NotAppCompose::DockerCompose)
    } else {
        Err(NotAppCompose::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_app_compose_is_named() {
        for (text, wrong) in [
            ("version: '3'\nservices:\n  a:\n    image: x\n", NotAppCompose::DockerCompose),
            (r#"{"services":{"a":{"image":"x"}}}"#, NotAppCompose::DockerCompose),
            (r#"{"compose_hash":"00"}"#, NotAppCompose::Other),
            ("[]", NotAppCompose::Other),
        ] {
            assert_eq!(parse(text), Err(wrong), "{text}");
        }
        assert!(matches!(parse("{"), Err(NotAppCompose::NotJson(_))));
        assert!(matches!(parse(""), Err(NotAppCompose::NotJson(_))));
        assert!(parse(r#"{"runner":"bash","bash_script":"true"}"#).is_ok());
    }

    /// Which of two members counts differs between the programs that read it.
    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        let twice = parse(r#"{"runner":"bash","runner":"docker-compose"}"#).unwrap_err();
        assert!(twice.to_string().contains("`runner` is there twice"), "{twice}");
    }
}
