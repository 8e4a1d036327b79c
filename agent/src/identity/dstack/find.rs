//! Where the guest agent is: what was configured, else where dstack's own clients look, in their order.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where dstack mounts the socket, in the order in which its own clients look.
const PLACES: [&str; 4] =
    ["/var/run/dstack.sock", "/run/dstack.sock", "/var/run/dstack/dstack.sock", "/run/dstack/dstack.sock"];
/// Where it mounts the one of its older API, in the same order.
const OLDER_PLACES: [&str; 4] =
    ["/var/run/tappd.sock", "/run/tappd.sock", "/var/run/dstack/tappd.sock", "/run/dstack/tappd.sock"];

/// A guest agent's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port` of an http URL, and the URL's path prefix without a trailing slash.
    Http {
        /// For connecting and for the `Host` header.
        authority: String,
        /// Before `/<method>`.
        prefix: String,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Http { authority, prefix } => write!(f, "http://{authority}{prefix}"),
        }
    }
}

/// There is no guest agent to be found.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// None of the usual places.
    #[error(
        "no dstack guest agent socket found: looked at {}\nhint: mount it into the container (`volumes: /var/run/dstack.sock:/var/run/dstack.sock`), or name it with `--dstack-socket PATH`",
        PLACES.join(", ")
    )]
    Nowhere,
    /// None of these, but the older API is there.
    #[error(
        "no dstack guest agent socket found, but `{0}`, which is tappd's, its older API\nhint: mount /var/run/dstack.sock into the container (`volumes: /var/run/dstack.sock:/var/run/dstack.sock`)"
    )]
    OnlyTappd(&'static str),
    /// Not at the configured place.
    #[error(
        "there is no guest agent socket at `{0}`\nhint: check `--dstack-socket` (or DSTACK_SIMULATOR_ENDPOINT); outside a CVM, start `dstack-simulator` first"
    )]
    NotThere(PathBuf),
    /// https would need a certificate, and none is configured.
    #[error(
        "`{0}` is not a unix socket or an http:// URL\nhint: the guest agent speaks plain HTTP inside its CVM; use its unix socket"
    )]
    Scheme(String),
}

/// Finds the guest agent.
///
/// # Errors
/// See [`NotFound`].
pub fn find(configured: Option<&str>) -> Result<Endpoint, NotFound> {
    let Some(configured) = configured else {
        return search(|place| Path::new(place).exists());
    };
    if let Some(rest) = configured.strip_prefix("http://") {
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        return Ok(Endpoint::Http { authority, prefix });
    }
    if configured.contains("://") && !configured.starts_with("unix://") {
        return Err(NotFound::Scheme(configured.to_owned()));
    }
    let path = PathBuf::from(configured.trim_start_matches("unix://").trim_start_matches("unix:"));
    if path.exists() { Ok(Endpoint::Unix(path)) } else { Err(NotFound::NotThere(path)) }
}

fn search(exists: impl Fn(&str) -> bool) -> Result<Endpoint, NotFound> {
    let first_of = |places: [&'static str; 4]| places.into_iter().find(|place| exists(place));
    match (first_of(PLACES), first_of(OLDER_PLACES)) {
        (Some(place), _) => Ok(Endpoint::Unix(place.into())),
        (None, Some(older)) => Err(NotFound::OnlyTappd(older)),
        (None, None) => Err(NotFound::Nowhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_distinguished() {
        let http =
            |authority: &str, prefix: &str| Endpoint::Http { authority: authority.into(), prefix: prefix.into() };
        assert_eq!(find(Some("http://localhost:8090/")).unwrap(), http("localhost:8090", ""));
        assert_eq!(find(Some("http://agent/prpc/")).unwrap(), http("agent:80", "/prpc"));
        assert!(matches!(find(Some("https://agent")), Err(NotFound::Scheme(_))));
        assert!(matches!(find(Some("/nowhere/dstack.sock")), Err(NotFound::NotThere(_))));
    }

    #[test]
    fn a_socket_of_the_older_api_alone_is_named() {
        let among = |places: &[&str]| search(|place| places.contains(&place)).map_err(|error| error.to_string());
        assert_eq!(among(&["/run/tappd.sock", PLACES[3]]), Ok(Endpoint::Unix(PLACES[3].into())));
        let error = among(&["/run/tappd.sock"]).unwrap_err();
        assert!(error.contains("`/run/tappd.sock`, which is tappd's") && error.contains("mount /var/run/dstack.sock"));
        assert_eq!(among(&[]), Err(NotFound::Nowhere.to_string()));
    }

    #[test]
    fn the_error_lists_every_place() {
        let text = NotFound::Nowhere.to_string();
        assert!(PLACES.iter().all(|place| text.contains(place)) && text.contains("hint:"));
    }
}
