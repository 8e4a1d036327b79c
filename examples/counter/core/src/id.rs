//! Identities: a node is a token of the contract together with one disk.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A term of the contract's leader election (`ILeaderElection.term()`); zero before the first election.
pub type Term = u32;

/// A token of the cluster contract, and so a mesh address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u16);

/// The name of one disk, drawn at random when a node first starts on it. A node without its disk has forgotten what it promised and
/// acknowledged: under its token a different member comes back, and the contract gives the lowest free token to the next node
/// anyway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskId(#[serde(with = "hex::serde")] pub [u8; 16]);

/// One node for as long as it keeps its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// Its token.
    pub token: Token,
    /// Its disk.
    pub disk: DiskId,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
