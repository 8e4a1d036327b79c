//! The endpoint's URL, and errors without what is secret in it.

use std::fmt;

use alloy::transports::TransportError;

use crate::failure::Failure;

/// An endpoint's URL. Only scheme, host and port are ever printed: paths, queries and user names hold API keys.
pub(super) struct Url {
    pub(super) full: String,
    shown: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("the RPC endpoint {why}"))
                .hint("it looks like http://127.0.0.1:8545 or wss://host/key")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is not a URL"))?;
        if !["http", "https", "ws", "wss"].contains(&scheme) {
            return Err(wrong("is neither http(s) nor ws(s)"));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self { full: text.to_owned(), shown: format!("{scheme}://{host}") })
    }

    /// An error's text without what may be secret in the URL.
    pub(super) fn scrub(&self, error: &TransportError) -> anyhow::Error {
        anyhow::anyhow!("{}", self.scrub_text(&causes(error)))
    }

    pub(super) fn scrub_text(&self, text: &str) -> String {
        let mut text = text.replace(&self.full, &self.shown);
        let rest = self.full.split_once("://").map_or("", |(_, rest)| rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let user = authority.rfind('@').map_or("", |at| &authority[..=at]);
        // Whole pieces first; then what may be a key by itself, where a library has taken the URL apart.
        let pieces = [user, path].into_iter().filter(|piece| piece.len() > 1);
        let words = rest.split(['/', '?', '#', '@', '&', '=', ':']).filter(|word| word.len() >= 8);
        for secret in pieces.chain(words).filter(|secret| !self.shown.contains(secret)) {
            text = text.replace(secret, "[redacted]");
        }
        text
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
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (full, shown) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://user:pass@rpc.example/v3/0123456789abcdef", "https://rpc.example"),
            ("wss://rpc.example:443?key=s3cr3ts3cr3t", "wss://rpc.example:443"),
        ] {
            assert_eq!(Url::parse(full).unwrap().to_string(), shown);
        }
        for wrong in ["", "rpc.example", "ftp://rpc.example", "http://", "http:///path", "unix:///x"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_secret_part_of_a_url() {
        let url = Url::parse("https://user:hunter2hunter2@rpc.example/v3/0123456789abcdef?k=topsecret").unwrap();
        let short = Url::parse("https://u:pw@rpc.example/k3y").unwrap();
        assert_eq!(short.scrub_text("u:pw@rpc.example/k3y failed"), "[redacted]rpc.example[redacted] failed");
        let text =
            "error sending request for url (https://rpc.example/v3/0123456789abcdef?k=topsecret), hunter2hunter2";
        let clean = url.scrub_text(text);
        assert!(clean.contains("rpc.example"), "{clean}");
        for secret in ["0123456789abcdef", "topsecret", "hunter2"] {
            assert!(!clean.contains(secret), "{clean}");
        }
    }
}
