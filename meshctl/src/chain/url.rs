//! The endpoint's URL, and what endpoints say without what is secret in it.

use std::fmt;

use alloy::transports::TransportError;
use mesh_contract::RpcUrl;

use crate::failure::Failure;

/// The most characters that are shown of what an endpoint says.
const MAX_SAID: usize = 300;
/// The most bytes of it that are looked at.
const MAX_READ: usize = 64 << 10;

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
    pub(super) const fn full(&self) -> &RpcUrl {
        &self.0
    }

    /// An error's text without what may be secret in the URL.
    pub(super) fn scrub(&self, error: &TransportError) -> anyhow::Error {
        // The error of what does not decode repeats all of it.
        if error.is_deser_error() {
            return anyhow::anyhow!("the endpoint's answer is not what was asked for");
        }
        anyhow::anyhow!("{}", self.scrub_text(&causes(error)))
    }

    /// What an endpoint said: on one line, not too much of it, and without what may be secret in the URL.
    pub(super) fn scrub_text(&self, text: &str) -> String {
        let text = &text[..text.floor_char_boundary(MAX_READ)];
        let clean = self.0.redact(text);
        let mut said: String = clean.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = said.char_indices().nth(MAX_SAID) {
            said.truncate(end);
            said.push('…');
        }
        said
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

    #[test]
    fn what_an_endpoint_says_is_one_short_line() {
        let url = Url::parse("https://rpc.example/").unwrap();
        let said = url.scrub_text("no\r\nhint: send your ether to mallory\n");
        assert_eq!(said, "no hint: send your ether to mallory");
        assert_eq!(url.scrub_text(&"é".repeat(1 << 20)).chars().count(), MAX_SAID + 1);
    }
}
