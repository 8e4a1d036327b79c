//! The URL of an RPC endpoint: known to the world by scheme, host and port, because paths and queries hold API keys.

use std::{fmt, str::FromStr};

use url::Url;

/// An `http`, `https`, `ws` or `wss` URL. `Debug` and [`RpcUrl::id`] leave out everything that may be an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcUrl {
    url: Url,
    id: String,
}

/// Not such a URL. The text itself is left out: it may hold an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an http://, https://, ws:// or wss:// URL with a host")]
pub struct InvalidRpcUrl;

impl RpcUrl {
    /// Scheme, host and port: the name under which status, logs and metrics show it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it speaks WebSocket, over which heads can be subscribed to.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        matches!(self.url.scheme(), "ws" | "wss")
    }

    /// Host and port to find the local address that leads there.
    #[must_use]
    pub fn host_and_port(&self) -> Option<(String, u16)> {
        let host = self.url.host_str()?.trim_start_matches('[').trim_end_matches(']');
        Some((host.to_owned(), self.url.port_or_known_default()?))
    }

    /// The whole URL, for connecting alone.
    pub(crate) const fn secret(&self) -> &Url {
        &self.url
    }

    /// `text` without anything of the URL that may be an API key.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut clean = text.replace(self.url.as_str(), &self.id);
        let parts = [self.url.password(), self.url.query(), Some(self.url.username()), Some(self.url.path())];
        for part in parts.into_iter().flatten().filter(|part| part.len() > 1) {
            clean = clean.replace(part, "…");
        }
        clean
    }
}

impl FromStr for RpcUrl {
    type Err = InvalidRpcUrl;
    fn from_str(text: &str) -> Result<Self, InvalidRpcUrl> {
        let url = Url::parse(text).map_err(|_| InvalidRpcUrl)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidRpcUrl)?;
        if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") {
            return Err(InvalidRpcUrl);
        }
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        let id = format!("{}://{host}{port}", url.scheme());
        Ok(Self { url, id })
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_keys_are_not_shown() {
        let url: RpcUrl = "https://user:pass@rpc.example:8443/v3/0123abcd?key=s3cret".parse().unwrap();
        assert_eq!(url.id(), "https://rpc.example:8443");
        assert_eq!(format!("{url:?}"), "https://rpc.example:8443");
        let text = format!("error sending request for url ({}) and /v3/0123abcd", url.secret());
        let clean = url.redact(&text);
        for secret in ["0123abcd", "s3cret", "pass"] {
            assert!(!clean.contains(secret), "{clean}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for bad in ["ftp://a", "rpc.example", "http://", "", "unix:///x"] {
            assert!(bad.parse::<RpcUrl>().is_err(), "{bad}");
        }
        assert_eq!("http://[::1]:8545".parse::<RpcUrl>().unwrap().host_and_port(), Some(("::1".to_owned(), 8545)));
    }
}
