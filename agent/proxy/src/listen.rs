//! Where applications connect to: parsed once, from flags and the configuration file.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use mesh_core::text::escaped;
use serde::{Deserialize, Serialize};

use crate::target::{ParseTargetError, Target};

/// The longest path of a Unix socket on Linux, in bytes.
const LONGEST_PATH: usize = 107;

/// An address that only this machine reaches: `127.0.0.1:1080`, `[::1]:1080` or `unix:/run/mesh.sock`. With port 0 the kernel chooses.
/// A string in JSON and TOML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyListen(pub(crate) Place);

/// What is behind a [`ProxyListen`]: a loopback address, or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A fixed way: all that connects to `listen` is led to `target`. Written `127.0.0.1:6379=node-7:6379`; where the target has no port, it
/// is that of `listen`. A string in JSON and TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// Where applications connect to.
    pub listen: ProxyListen,
    /// Where they are led.
    pub target: Target,
}

/// Text that is no [`ProxyListen`] or [`Forward`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseListenError {
    /// Neither an address nor `unix:`.
    #[error("`{0}` is not an address to listen on; write 127.0.0.1:PORT or unix:/PATH")]
    Form(String),
    /// An address that other machines can reach.
    #[error(
        "`{0}` can be reached from outside of this machine, and the proxy asks no caller for a name; use 127.0.0.1 or unix:/PATH"
    )]
    NotLoopback(SocketAddr),
    /// A path that the kernel does not take, or that depends on the working directory.
    #[error("`{0}` is not the path of a Unix socket: it must begin with `/` and have at most {LONGEST_PATH} bytes")]
    Path(String),
    /// A forward without `=`.
    #[error("`{0}` says not where to lead; write LISTEN=TARGET, such as 127.0.0.1:6379=node-7:6379")]
    NoTarget(String),
    /// A target without a port, where `listen` has none either.
    #[error("`{0}` needs a port; write unix:/PATH=NODE:PORT")]
    NoPort(String),
    /// The target is none.
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl ProxyListen {
    /// The path of the socket file, where it is a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Tcp(_) => None,
            Place::Unix(path) => Some(path),
        }
    }

    /// The address, where it is one.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        }
    }
}

impl FromStr for ProxyListen {
    type Err = ParseListenError;
    fn from_str(text: &str) -> Result<Self, ParseListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.ends_with('/') || path.len() > LONGEST_PATH || path.contains('\0') {
                return Err(ParseListenError::Path(escaped(path, 200)));
            }
            return Ok(Self(Place::Unix(path.into())));
        }
        let address: SocketAddr = text.parse().map_err(|_| ParseListenError::Form(escaped(text, 80)))?;
        if !address.ip().is_loopback() {
            return Err(ParseListenError::NotLoopback(address));
        }
        Ok(Self(Place::Tcp(address)))
    }
}

impl FromStr for Forward {
    type Err = ParseListenError;
    fn from_str(text: &str) -> Result<Self, ParseListenError> {
        // The last one: a path may have others, a target has none.
        let (listen, target) = text.rsplit_once('=').ok_or_else(|| ParseListenError::NoTarget(escaped(text, 200)))?;
        let listen: ProxyListen = listen.parse()?;
        let target = if target.contains(':') {
            target.parse()?
        } else {
            let node = target.parse()?;
            let port = listen.address().and_then(|address| address.port().try_into().ok());
            Target { node, port: port.ok_or_else(|| ParseListenError::NoPort(escaped(text, 200)))? }
        };
        Ok(Self { listen, target })
    }
}

impl fmt::Display for ProxyListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.target)
    }
}

impl TryFrom<String> for ProxyListen {
    type Error = ParseListenError;
    fn try_from(text: String) -> Result<Self, ParseListenError> {
        text.parse()
    }
}

impl From<ProxyListen> for String {
    fn from(listen: ProxyListen) -> Self {
        listen.to_string()
    }
}

impl TryFrom<String> for Forward {
    type Error = ParseListenError;
    fn try_from(text: String) -> Result<Self, ParseListenError> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        text.parse::<Forward>().map(|forward| forward.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn forwards_are_listen_and_target() {
        for (text, expected) in [
            ("127.0.0.1:6379=10.0.1.3:6380", "127.0.0.1:6379=10.0.1.3:6380"),
            ("127.0.0.1:6379=node-7", "127.0.0.1:6379=node-7:6379"),
            ("[::1]:80=7:443", "[::1]:80=node-7:443"),
            ("unix:/run/x=node-7:80", "unix:/run/x=node-7:80"),
            ("unix:/run/a=b=node-7.c.p2p.internal:80", "unix:/run/a=b=node-7:80"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("127.0.0.1:6379", "LISTEN=TARGET"),
            ("6379=node-7", "not an address"),
            ("localhost:6379=node-7", "not an address"),
            ("0.0.0.0:6379=node-7", "from outside"),
            ("10.0.1.1:6379=node-7", "from outside"),
            ("[::ffff:127.0.0.1]:1=node-7", "from outside"),
            ("unix:run/x=node-7:80", "must begin with `/`"),
            ("unix:/run/x=node-7", "needs a port"),
            ("127.0.0.1:0=node-7", "needs a port"),
            ("127.0.0.1:1=example.com", "not in the mesh"),
            ("127.0.0.1:1=node-7:0", "no port"),
        ] {
            let error = shown(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "x".repeat(107)).parse::<ProxyListen>().is_err());
        assert!("unix:/a\0b".parse::<ProxyListen>().is_err());
    }

    #[test]
    fn both_are_strings_in_files() {
        let listen: ProxyListen = serde_json::from_str("\"127.0.0.1:1080\"").unwrap();
        assert_eq!(serde_json::to_string(&listen).unwrap(), "\"127.0.0.1:1080\"");
        assert!(serde_json::from_str::<ProxyListen>("\"0.0.0.0:1080\"").is_err());
        let forward: Forward = serde_json::from_str("\"unix:/x=7:80\"").unwrap();
        assert_eq!(serde_json::to_string(&forward).unwrap(), "\"unix:/x=node-7:80\"");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_prints_alike(text in "(unix:|127\\.0\\.0\\.1:)?\\PC{0,12}(=\\PC{0,12})?") {
            if let Ok(forward) = text.parse::<Forward>() {
                prop_assert_eq!(forward.to_string().parse(), Ok(forward));
            }
        }
    }
}
