//! A place behind the dstack gateway, as a node signs it and as the contract lists it.

use alloy_primitives::{B256, U256, keccak256};
use serde::{Deserialize, Serialize};

/// A place as the contract lists it: base domain by its 1-based index in the contract, and a TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// 1-based index of a base domain.
    pub domain: u16,
    /// TCP port of the node behind the gateway, nonzero.
    pub port: u16,
}

/// A place as a node signs it: base domain by its name, so that no other can take its place, and a TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGateway {
    /// The base domain.
    pub domain: SignedDomain,
    /// TCP port of the node behind the gateway, nonzero.
    pub port: u16,
}

/// A base domain in a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignedDomain {
    /// Its 1-based index, which contracts without TLS keys had signed.
    Index(u16),
    /// The keccak256 of its name as the contract lists it.
    Name(B256),
}

impl SignedGateway {
    /// The place behind the base domain of this name.
    #[must_use]
    pub fn named(domain: &str, port: u16) -> Self {
        Self { domain: SignedDomain::Name(keccak256(domain)), port }
    }

    /// The place as the contract lists it while these are its base domains, each once. `None` where the domain is not among them.
    #[must_use]
    pub fn listed(&self, base_domains: &[Option<String>]) -> Option<Gateway> {
        let is_it = |listed: &Option<String>, name: B256| listed.as_ref().is_some_and(|text| keccak256(text) == name);
        let domain = match self.domain {
            SignedDomain::Index(index) => index,
            SignedDomain::Name(name) => {
                let index = base_domains.iter().position(|listed| is_it(listed, name))?;
                u16::try_from(index + 1).ok()?
            }
        };
        Some(Gateway { domain, port: self.port })
    }

    /// Whether the contract lists this place, as far as its base domains are not asked: the port, and an index that was signed.
    #[must_use]
    pub fn may_be(&self, listed: Gateway) -> bool {
        let is_same_index = match self.domain {
            SignedDomain::Index(index) => index == listed.domain,
            SignedDomain::Name(_) => true,
        };
        is_same_index && self.port == listed.port
    }
}

impl SignedDomain {
    /// The word that stands for it in the typed data.
    #[must_use]
    pub fn word(self) -> B256 {
        match self {
            Self::Index(index) => U256::from(index).into(),
            Self::Name(name) => name,
        }
    }

    /// Whether this is the name of the domain. An index says nothing of names.
    #[must_use]
    pub fn may_be_called(self, name: &str) -> bool {
        match self {
            Self::Index(_) => true,
            Self::Name(signed) => keccak256(name) == signed,
        }
    }
}
