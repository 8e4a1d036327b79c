//! The entries of the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{DiskId, NodeId, Term, Token};

/// One entry. Its index is its place in the log, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term whose leader wrote it.
    pub term: Term,
    /// What it does.
    pub operation: Operation,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Nothing: the first entry of a term. What lies before it counts as soon as this does.
    Begin,
    /// Counts one.
    Increment(Increment),
    /// Names the members, from this entry on.
    Members(Members),
}

/// One count, wanted by one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Increment {
    /// The client that wants it.
    pub client: ClientId,
    /// Grows with each new increment of the client and is the same in each repetition of one.
    pub request: u64,
}

/// A client's name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

/// Why a text is not a [`ClientId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client's name has 1 to 64 of `A-Z a-z 0-9 . _ -`")]
pub struct InvalidClientId;

/// The nodes whose majority decides; never empty, one disk a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Token, DiskId>", into = "BTreeMap<Token, DiskId>")]
pub struct Members(BTreeMap<Token, DiskId>);

/// There must be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log has one member at least")]
pub struct NoMembers;

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;
    fn try_from(name: String) -> Result<Self, InvalidClientId> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=64).contains(&name.len()) && name.bytes().all(fits) { Ok(Self(name)) } else { Err(InvalidClientId) }
    }
}

impl From<ClientId> for String {
    fn from(client: ClientId) -> Self {
        client.0
    }
}

impl TryFrom<BTreeMap<Token, DiskId>> for Members {
    type Error = NoMembers;
    fn try_from(members: BTreeMap<Token, DiskId>) -> Result<Self, NoMembers> {
        if members.is_empty() { Err(NoMembers) } else { Ok(Self(members)) }
    }
}

impl From<Members> for BTreeMap<Token, DiskId> {
    fn from(members: Members) -> Self {
        members.0
    }
}

impl Members {
    /// Ascending by token.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(&token, &disk)| NodeId { token, disk })
    }

    /// The disk that a token is a member with.
    #[must_use]
    pub fn disk_of(&self, token: Token) -> Option<DiskId> {
        self.0.get(&token).copied()
    }

    /// Whether this node, with this disk, is a member.
    #[must_use]
    pub fn contain(&self, node: NodeId) -> bool {
        self.disk_of(node.token) == Some(node.disk)
    }

    /// Of n = 2f + 1 members, f + 1.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.0.len() / 2 + 1
    }

    /// Whether `holds` of a majority.
    #[must_use]
    pub fn most(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.iter().filter(|&node| holds(node)).count() >= self.majority()
    }

    /// These and `node`.
    #[must_use]
    pub fn with(&self, node: NodeId) -> Self {
        let mut members = self.0.clone();
        members.insert(node.token, node.disk);
        Self(members)
    }

    /// These without `token`; `None` where no member would be left.
    #[must_use]
    pub fn without(&self, token: Token) -> Option<Self> {
        let mut members = self.0.clone();
        members.remove(&token);
        Self::try_from(members).ok()
    }
}
