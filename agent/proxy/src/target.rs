//! What an application asks for: a port of a node.

use std::{fmt, net::Ipv4Addr, num::NonZeroU16, str::FromStr};

use mesh_core::{id::TokenId, network::MeshNetwork, text::escaped};
use serde::{Deserialize, Serialize};

/// The domain below which every node has a name: `node-7.<cluster>.p2p.internal`.
const DOMAIN: &str = ".p2p.internal";
/// The longest name in the domain name system, in bytes.
const LONGEST_NAME: usize = 253;

/// A TCP port of a node of the mesh. Printed and parsed as `10.0.1.3:6379` or `node-7:80`; a string in JSON and TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// The node.
    pub node: Node,
    /// Its TCP port.
    pub port: NonZeroU16,
}

/// A node as applications name it. That it has the form of one says nothing about whether it is a member now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// By an address. It may lie outside of the mesh: only a [`Dial`](crate::Dial) knows the network.
    Address(Ipv4Addr),
    /// By its token: `node-7`, `7`, or `node-7.<anything>.p2p.internal`.
    Token(TokenId),
}

/// Text that names no port of a node of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    /// A host that cannot be in any mesh.
    #[error("`{0}` is not in the mesh; name a node (`node-7`) or its mesh address")]
    NotInTheMesh(String),
    /// No port, or none between 1 and 65535.
    #[error("`{0}` has no port; write NODE:PORT, such as `node-7:6379` or `10.0.1.3:6379`")]
    Port(String),
}

impl Target {
    /// The token of the node in `network`; `None` where no token has the address.
    #[must_use]
    pub fn token(&self, network: MeshNetwork) -> Option<TokenId> {
        match self.node {
            Node::Address(address) => network.token_of(address),
            Node::Token(token) => network.address_of(token).map(|_| token),
        }
    }

    /// The mesh address of the node in `network`; `None` where it has none.
    #[must_use]
    pub fn address(&self, network: MeshNetwork) -> Option<Ipv4Addr> {
        self.token(network).and_then(|token| network.address_of(token))
    }
}

impl Node {
    /// `node-7`: a token in decimal digits as it is printed, without sign or leading zeros, so that a node has one such name.
    fn from_label(label: &str) -> Option<Self> {
        let number = label.get(..5).filter(|start| start.eq_ignore_ascii_case("node-")).and(label.get(5..))?;
        token(number)
    }
}

fn token(number: &str) -> Option<Node> {
    let is_plain =
        number.starts_with(|c: char| matches!(c, '1'..='9')) && number.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| number.parse().ok()).flatten().map(Node::Token)
}

impl FromStr for Node {
    type Err = ParseTargetError;
    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let refused = || ParseTargetError::NotInTheMesh(escaped(text, 80));
        if text.len() > LONGEST_NAME {
            return Err(refused());
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let Some((label, rest)) = name.split_once('.') else {
            return token(name).or_else(|| Self::from_label(name)).ok_or_else(refused);
        };
        let above = rest.len().checked_sub(DOMAIN.len()).and_then(|at| rest.split_at_checked(at));
        let cluster = above.filter(|(_, domain)| domain.eq_ignore_ascii_case(DOMAIN)).map(|(cluster, _)| cluster);
        if !cluster.is_some_and(|cluster| cluster.split('.').all(is_label)) {
            return Err(refused());
        }
        Self::from_label(label).ok_or_else(refused)
    }
}

/// A label of a host name (RFC 1123).
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for Target {
    type Err = ParseTargetError;
    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let without_port = || ParseTargetError::Port(escaped(text, 80));
        let (node, port) = text.rsplit_once(':').ok_or_else(without_port)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(without_port());
        }
        Ok(Self { node: node.parse()?, port: port.parse().map_err(|_| without_port())? })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Token(token) => write!(f, "node-{token}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.port)
    }
}

impl TryFrom<String> for Target {
    type Error = ParseTargetError;
    fn try_from(text: String) -> Result<Self, ParseTargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(text: &str) -> Option<String> {
        text.parse().ok().map(|node: Node| node.to_string())
    }

    #[test]
    fn nodes_are_named_by_address_token_or_name() {
        for (text, expected) in [
            ("10.0.1.3", "10.0.1.3"),
            ("7", "node-7"),
            ("node-7", "node-7"),
            ("NODE-7", "node-7"),
            ("node-7.", "node-7"),
            ("node-7.c0ffee.p2p.internal", "node-7"),
            ("node-7.a.b.P2P.Internal.", "node-7"),
        ] {
            assert_eq!(node(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_not_in_the_mesh() {
        for text in [
            "",
            ".",
            "0",
            "07",
            "+7",
            "-7",
            "4294967296",
            "node-",
            "node-0",
            "node-07",
            "node-+7",
            "node-7x",
            "nodes-7",
            "10.0.1",
            "10.0.1.03",
            "0x0a000103",
            "::1",
            "[::1]",
            "::ffff:10.0.1.3",
            "example.com",
            "node-7.example.com",
            "node-7.p2p.internal",
            "node-7..p2p.internal",
            "node-7.-a.p2p.internal",
            "node-7.a_b.p2p.internal",
            "x.node-7.a.p2p.internal",
            "7.a.p2p.internal",
            "node-7.a.p2p.internal..",
            "node-7 ",
            "nöde-7",
            "localhost",
        ] {
            assert_eq!(node(text), None, "{text}");
        }
        assert_eq!(node(&format!("node-7.{}p2p.internal", "a.".repeat(130))), None);
    }

    #[test]
    fn a_target_needs_a_port() {
        for text in
            ["node-7", "node-7:", "node-7:0", "node-7:65536", "node-7:+80", "node-7: 80", ":80", "[::1]:80", "a:b:80"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let target: Target = serde_json::from_str("\"10.0.1.3:6379\"").unwrap();
        assert_eq!(serde_json::to_string(&target).unwrap(), "\"10.0.1.3:6379\"");
    }

    #[test]
    fn a_target_belongs_to_one_token_of_the_network() {
        let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
        let token = |text: &str| text.parse::<Target>().unwrap().token(network).map(TokenId::get);
        assert_eq!([token("10.0.1.3:1"), token("node-3:1")], [Some(3), Some(3)]);
        assert_eq!([token("10.0.2.3:1"), token("10.0.1.255:1"), token("node-255:1"), token("127.0.0.1:1")], [None; 4]);
        assert_eq!("node-3:1".parse::<Target>().unwrap().address(network), Some(Ipv4Addr::new(10, 0, 1, 3)));
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_what_parses_the_same(text in "(node-)?[0-9]{1,3}(\\.[0-9a-z-]{1,3}){0,3}(\\.p2p\\.internal)?:[0-9]{1,5}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Target>();
            let _ = text.parse::<Node>();
        }
    }
}
