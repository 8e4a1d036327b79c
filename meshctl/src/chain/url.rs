//! The endpoint's URL, and errors without what is secret in it.

use std::fmt;

use alloy::transports::TransportError;
use mesh_contract::RpcUrl;

use crate::failure::Failure;

/// An endpoint's URL. Only scheme, host and port are ever printed: paths, queries and user names hold API keys.
pub(super) struct Url(RpcUrl);

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |error| {
            Failure::usage(format!("the RPC endpoint is not usable: {error}"))
                .hint("it looks like http://127.0.0.1:8545 or wss://host/key")
        };
        text.parse().map(Self).map_err(wrong)
    }

    /// For connecting alone.
    pub(super) fn full(&self) -> String {
        self.0.secret().to_string()
    }

    /// An error's text without what may be secret in the URL.
    pub(super) fn scrub(&self, error: &TransportError) -> anyhow::Error {
        anyhow::anyhow!("{}", self.scrub_text(&causes(error)))
    }

    pub(super) fn scrub_text(&self, text: &str) -> String {
        self.0.redact(text)
    }
}

/// An error and what caused it, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_is_not_repeated() {
        for wrong in ["", "rpc.example/s3cret", "ftp://rpc.example/s3cret", "http://", "unix:///s3cret"] {
            let error = Url::parse(wrong).err().unwrap().to_string();
            assert!(!error.contains("s3cret") && error.contains("http://"), "{error}");
        }
    }

    #[test]
    fn errors_and_their_causes_do_not_repeat_the_key() {
        let url = Url::parse("https://rpc.example/v3/S3CRETKEY12345").unwrap();
        let error = alloy::transports::TransportErrorKind::custom_str("project S3CRETKEY12345 is over its limit");
        let clean = url.scrub(&error).to_string();
        assert!(clean.contains("over its limit") && !clean.contains("S3CRETKEY"), "{clean}");
        assert_eq!(url.to_string(), "https://rpc.example");
    }
}
