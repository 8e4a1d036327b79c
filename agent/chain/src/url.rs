//! The URL of an RPC endpoint: known to the world by scheme, host and port, because paths, queries and user names hold API keys.

use std::{collections::BTreeSet, fmt, str::FromStr};

use url::Url;

/// What stands where a word of the secret part stood.
const REDACTED: &str = "[redacted]";
/// A word of the URL of so many bytes is recognized inside other words, and by a part of itself as long as this.
const TELLING: usize = 5;

/// An `http`, `https`, `ws` or `wss` URL. `Debug`, `Display` and [`RpcUrl::id`] leave out everything that may be an API key.
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
    #[must_use]
    pub const fn secret(&self) -> &Url {
        &self.url
    }

    /// `text` without anything of the URL that may be an API key: errors of transports repeat the URL, and endpoints repeat the
    /// key they were asked with, whole or shortened, alone or in a sentence.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let secrets = self.secret_words();
        let mut clean = String::with_capacity(text.len());
        let text = text.replace(self.url.as_str(), &self.id);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let word = &rest[..rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())];
            if secrets.iter().any(|secret| gives_away(&word.to_ascii_lowercase(), secret)) {
                clean.push_str(REDACTED);
            } else {
                clean.push_str(word);
            }
            rest = &rest[word.len()..];
            let between = rest.find(is_of_word).unwrap_or(rest.len());
            clean.push_str(&rest[..between]);
            rest = &rest[between..];
        }
        clean
    }

    /// The words of all but scheme, host and port, in lower case; whole ones such as `a-b`, and their parts.
    fn secret_words(&self) -> BTreeSet<String> {
        let url = &self.url;
        let parts = [Some(url.username()), url.password(), Some(url.path()), url.query(), url.fragment()];
        let parts = parts.into_iter().flatten();
        let decoded = parts.flat_map(|part| [part.to_owned(), percent_decoded(part)]);
        let words = decoded.flat_map(|part| {
            let lower = part.to_ascii_lowercase();
            let whole = lower.split(|c| !is_of_word(c)).map(str::to_owned);
            let pieces = lower.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned);
            whole.chain(pieces).collect::<Vec<_>>()
        });
        // What the id shows anyway is no secret.
        let id = self.id.to_ascii_lowercase();
        let shown: BTreeSet<&str> = id.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        words.filter(|word| !word.is_empty() && !shown.contains(word.as_str())).collect()
    }
}

/// Characters that keys are made of.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '~' | '%' | '+')
}

/// Whether a word of a text is that of the URL, holds it, or is a part of it that tells much of it.
fn gives_away(word: &str, secret: &str) -> bool {
    let has_piece = || word.split(|c: char| !c.is_ascii_alphanumeric()).any(|piece| piece == secret);
    word == secret
        || has_piece()
        || (secret.len() >= TELLING && word.contains(secret))
        || (word.len() >= TELLING && secret.contains(word))
}

fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(text.replace(['&', '='], " ").as_bytes())
        .map(|(key, _)| key.into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// `text` with every URL in it cut down to scheme and host: for what an operator wrote where no URL belongs.
#[must_use]
pub fn cut_urls(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        clean.push_str(before);
        let url =
            &after[..after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(after.len())];
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        let host = authority.rsplit('@').next().unwrap_or_default();
        clean.push_str(host);
        if host.len() < url.len() {
            clean.push('…');
        }
        rest = &after[url.len()..];
    }
    clean + rest
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

impl fmt::Display for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RpcUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_shown_by_scheme_host_and_port() {
        for (full, shown) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://user:pass@rpc.example:8443/v3/0123abcd?key=s3cret", "https://rpc.example:8443"),
            ("wss://rpc.example?key=s3cr3ts3cr3t#part", "wss://rpc.example"),
        ] {
            assert_eq!((url(full).id(), format!("{:?}", url(full)).as_str()), (shown, shown));
        }
        for wrong in ["", "rpc.example", "ftp://rpc.example", "http://", "http:///", "unix:///x"] {
            assert!(wrong.parse::<RpcUrl>().is_err(), "{wrong}");
        }
        assert_eq!(url("http://[::1]:8545").host_and_port(), Some(("::1".to_owned(), 8545)));
    }

    #[test]
    fn a_key_is_redacted_however_it_is_repeated() {
        for (full, said) in [
            ("https://rpc.example/v3/SECRETKEY12345", "project id SECRETKEY12345 is over its limit"),
            ("https://rpc.example/v3/SECRETKEY12345", "no such key: secretkey12345."),
            ("https://rpc.example/v3/SECRETKEY12345", "key=SECRETKEY12345&x, id_SECRETKEY12345, SECRETK..."),
            ("https://rpc.example/?apikey=SECRETKEY12345&v=1", "{\"key\":\"SECRETKEY12345\"}"),
            ("https://user:SECRETKEY12345@rpc.example/", "user:SECRETKEY12345@rpc.example"),
            ("https://rpc.example/a%2FSECRETKEY12345", "/a/SECRETKEY12345"),
            ("https://rpc.example/SECRETK-1234-EY12345", "SECRETK-1234-EY12345 or SECRETK, EY12345"),
            ("https://rpc.example/#SECRETKEY12345", "https://rpc.example/#SECRETKEY12345"),
        ] {
            let clean = url(full).redact(said).to_lowercase();
            assert!(!clean.contains("secret") && !clean.contains("12345"), "{said} became {clean}");
        }
    }

    #[test]
    fn short_keys_are_redacted_as_words_and_other_words_stay() {
        let short = url("https://u:pw@rpc.example/k3y");
        let clean = short.redact("u:pw@rpc.example/k3y failed under pressure");
        assert_eq!(clean, "[redacted]:[redacted]@rpc.example/[redacted] failed under pressure");
        let clean =
            url("https://rpc.example/v3/0123abcd").redact("connection refused by https://rpc.example/v3/0123abcd");
        assert_eq!(clean, "connection refused by https://rpc.example");
        assert_eq!(url("http://127.0.0.1:8545/").redact("no route to 127.0.0.1:8545"), "no route to 127.0.0.1:8545");
    }

    #[test]
    fn urls_in_any_text_are_cut_to_their_host() {
        let said = "unexpected argument 'https://u:p@rpc.example:1/v3/KEY?k=KEY' found, or wss://b and http://c/KEY";
        let clean = cut_urls(said);
        assert_eq!(clean, "unexpected argument 'https://rpc.example:1…' found, or wss://b and http://c…");
    }
}
