//! What an endpoint says, made safe where it comes in, so that no later code has to.

use std::fmt;

use mesh_core::text::escaped;

use crate::RpcUrl;

/// The most characters that are kept.
const MAX_CHARACTERS: usize = 300;
/// The most bytes that are looked at.
const MAX_READ: usize = 64 << 10;

/// Text that an RPC endpoint, or a library in its place, chose: on one line, without characters that act on a terminal, of bounded
/// length, and without anything of the endpoint's URL that may be an API key. It can go into logs, status and error messages as
/// it is.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointMessage(String);

impl EndpointMessage {
    /// What the endpoint at `url` said.
    #[must_use]
    pub fn new(url: &RpcUrl, said: &str) -> Self {
        Self::one_line(&url.redact(&said[..said.floor_char_boundary(MAX_READ)]))
    }

    /// Our own words about an answer, with values out of it.
    pub(crate) fn about(text: &str) -> Self {
        Self::one_line(&text[..text.floor_char_boundary(MAX_READ)])
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn one_line(text: &str) -> Self {
        Self(escaped(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_CHARACTERS))
    }
}

impl fmt::Display for EndpointMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::text::is_hostile;

    use super::*;

    fn said(text: &str) -> String {
        EndpointMessage::new(&"https://rpc.example/v3/S3CRETKEY12345".parse().unwrap(), text).to_string()
    }

    #[test]
    fn it_is_one_line_that_acts_on_no_terminal() {
        assert_eq!(said("no\r\nhint: send your ether to mallory\n"), "no hint: send your ether to mallory");
        assert_eq!(said("a\x1b]0;owned\x07\u{202e}b"), "a\\u{1b}]0;owned\\u{7}\\u{202e}b");
        assert!(!said("\u{85}\u{2028}\u{2029}\u{b}\u{9b}2J\u{200b}\u{e0041}").chars().any(is_hostile));
    }

    #[test]
    fn it_is_short_whatever_came() {
        assert_eq!(said(&"é".repeat(1 << 20)).chars().count(), MAX_CHARACTERS + 1);
        assert!(said(&"\u{202e}".repeat(1 << 20)).len() <= MAX_CHARACTERS * "\\u{202e}".len() + "…".len());
    }

    #[test]
    fn it_does_not_repeat_the_key_whatever_stands_in_between() {
        let clean = said("project\nS3CRETKEY12345 is over its limit");
        assert_eq!(clean, "project [redacted] is over its limit");
    }
}
