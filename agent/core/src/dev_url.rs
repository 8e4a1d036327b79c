//! Development URLs: free text that a token's owner gives its node in a cluster with devMode. No node signs it: it comes from the
//! contract alone, and only applications use it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::id::TokenId;

/// Longest URL that the contract takes, bytes.
const MAX: usize = 256;

/// What the contract takes as one (`IClusterPolicy.setDevUrl`): 1 to 256 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DevUrl(String);

/// The current ones, by token.
pub type DevUrls = BTreeMap<TokenId, DevUrl>;

/// A text that is no development URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no development URL: it is {0}\nhint: give 1 to {MAX} visible ASCII characters, others percent-encoded"
)]
pub struct BadDevUrl(&'static str);

impl TryFrom<String> for DevUrl {
    type Error = BadDevUrl;

    fn try_from(text: String) -> Result<Self, BadDevUrl> {
        if text.is_empty() {
            return Err(BadDevUrl("empty"));
        }
        if text.len() > MAX {
            return Err(BadDevUrl("too long"));
        }
        if !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(BadDevUrl("not of visible ASCII characters alone"));
        }
        Ok(Self(text))
    }
}

impl FromStr for DevUrl {
    type Err = BadDevUrl;

    fn from_str(text: &str) -> Result<Self, BadDevUrl> {
        Self::try_from(text.to_owned())
    }
}

impl From<DevUrl> for String {
    fn from(url: DevUrl) -> Self {
        url.0
    }
}

impl fmt::Display for DevUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_contract_takes_them() {
        for good in ["!~", "http://localhost:8080/node?id=1", &"x".repeat(256)] {
            assert_eq!(good.parse::<DevUrl>().unwrap().to_string(), good);
        }
        for bad in ["", "a b", "a\n", "\u{7f}", "ü", "a\u{1b}[2J", &"x".repeat(257)] {
            let error = bad.parse::<DevUrl>().unwrap_err().to_string();
            assert!(error.starts_with("this is no development URL: it is ") && error.contains("hint: "), "{error}");
            assert!(serde_json::from_value::<DevUrl>(bad.into()).is_err());
        }
    }
}
