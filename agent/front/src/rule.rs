//! What the operator asks for: which port is ended here, and which application gets the bytes.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// `[ADDRESS:]PORT=TARGET`: TLS is ended at that port of this machine, and the target gets what is inside. Without an address, the port
/// is that of all addresses, IPv4 and IPv6: the gateway connects to one that dstack chooses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FrontRule {
    listen: SocketAddr,
    target: Target,
}

/// An application on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `ADDRESS:PORT`.
    Tcp(SocketAddr),
    /// `unix:/PATH`.
    Unix(PathBuf),
}

/// A text that is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no front: {why}\nhint: `8443=127.0.0.1:8080` takes TLS from members at port 8443, and passes what is inside to the application at 127.0.0.1:8080; `8443=unix:/run/app.sock` to one at a unix socket"
)]
pub struct BadRule {
    text: String,
    why: &'static str,
}

impl FrontRule {
    /// Where members' connections arrive.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Who gets what is inside of them.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (listen, target) = text.split_once('=').ok_or("there is no `=`")?;
        let listen = match listen.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            Err(_) => listen.parse().map_err(|_| "what is left of `=` is neither PORT nor ADDRESS:PORT")?,
        };
        let target = match target.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Target::Unix(path.into()),
            Some(_) => return Err("the path of a unix socket must be absolute"),
            None => {
                Target::Tcp(target.parse().map_err(|_| "what is right of `=` is neither ADDRESS:PORT nor unix:/PATH")?)
            }
        };
        if listen.port() == 0 {
            return Err("port 0 is no port that others could be told");
        }
        match &target {
            Target::Tcp(to) if to.port() == 0 => Err("port 0 is no port of an application"),
            Target::Tcp(to) if to.ip().is_unspecified() => Err("an application is at one address, such as 127.0.0.1"),
            Target::Tcp(to) if leads_back(listen, *to) => Err("it would pass connections to itself"),
            Target::Tcp(_) | Target::Unix(_) => Ok(Self { listen, target }),
        }
    }
}

/// Whether the target is the front itself, as far as that can be told without asking for this machine's addresses.
fn leads_back(listen: SocketAddr, to: SocketAddr) -> bool {
    let is_here = listen.ip() == to.ip() || listen.ip().is_unspecified() && is_loopback(to.ip());
    listen.port() == to.port() && is_here
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl FromStr for FrontRule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        Self::parse(text).map_err(|why| BadRule { text: text.chars().take(120).collect(), why })
    }
}

impl TryFrom<String> for FrontRule {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        text.parse()
    }
}

impl fmt::Display for FrontRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            write!(f, "{}={}", self.listen.port(), self.target)
        } else {
            write!(f, "{}={}", self.listen, self.target)
        }
    }
}

impl From<FrontRule> for String {
    fn from(rule: FrontRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_names_a_port_and_an_application() {
        for text in ["8443=127.0.0.1:8080", "10.0.0.1:8443=127.0.0.1:8443", "443=unix:/run/app.sock", "1=[::1]:2"] {
            let rule: FrontRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!("8443=127.0.0.1:1".parse::<FrontRule>().unwrap().listen(), "[::]:8443".parse().unwrap());
    }

    #[test]
    fn what_can_never_work_is_refused_with_a_reason() {
        for (text, why) in [
            ("8443", "no `=`"),
            ("x=127.0.0.1:1", "left of `=`"),
            ("8443=localhost:1", "right of `=`"),
            ("8443=unix:app.sock", "absolute"),
            ("0=127.0.0.1:1", "port 0"),
            ("8443=127.0.0.1:0", "port 0"),
            ("8443=0.0.0.0:1", "one address"),
            ("8443=127.0.0.1:8443", "to itself"),
            ("127.0.0.1:1=127.0.0.1:1", "to itself"),
        ] {
            let error = text.parse::<FrontRule>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("hint: "), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it_and_what_it_prints_is_what_it_reads(text in "[0-9a-f:=./unix\\[\\]]{0,40}") {
            if let Ok(rule) = text.parse::<FrontRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
