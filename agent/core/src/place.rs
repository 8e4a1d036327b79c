//! Places behind the dstack gateway. The contract names a base domain by its index, so that removing one there removes every
//! place under it; a host name is made of instance, port and domain.

use std::{fmt, num::NonZeroU16, str::FromStr};

use crate::{id::InstanceId, registration::Gateway};

/// A host name has 253 characters at most, of which `<instance id>-<port>s.` takes 48.
const MAX_DOMAIN: usize = 205;
const MAX_LABEL: usize = 63;

/// A base domain of a gateway: lower-case labels, at least two, the last beginning with a letter. The contract's grammar
/// (`HostName.sol`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

/// A text that is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no gateway domain\nhint: use lower-case labels joined by dots, as in `dstack-prod5.phala.network`, without port or path"
)]
pub struct BadDomain(String);

/// Where this node is to be registered behind a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPlace {
    /// The gateway's base domain, as the operator or dstack names it.
    pub domain: Domain,
    /// The TCP port of this node to which the gateway connects.
    pub port: NonZeroU16,
}

impl OwnPlace {
    /// As a registration names it; `None` while the contract does not list the domain.
    #[must_use]
    pub fn gateway(&self, base_domains: &[Option<String>]) -> Option<Gateway> {
        let index = base_domains.iter().position(|listed| listed.as_deref() == Some(self.domain.as_str()))?;
        Some(Gateway { domain: u16::try_from(index + 1).ok()?, port: self.port.get() })
    }
}

/// The domain that a registration names by index, unless the contract has removed it, never had it, or returns something that is no
/// domain: an RPC endpoint may return anything.
#[must_use]
pub fn domain_of(gateway: Gateway, base_domains: &[Option<String>]) -> Option<Domain> {
    let listed = base_domains.get(usize::from(gateway.domain).checked_sub(1)?)?;
    listed.as_ref()?.parse().ok()
}

/// `https://<instance id>-<port>s.<domain>`, in which `s` says that the gateway passes TLS through to the application (dstack/gateway,
/// `src/proxy.rs`). `None` where [`domain_of`] is.
#[must_use]
pub fn url(instance: InstanceId, gateway: Gateway, base_domains: &[Option<String>]) -> Option<String> {
    let domain = domain_of(gateway, base_domains)?;
    Some(format!("https://{instance}-{}s.{domain}", gateway.port))
}

impl Domain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let is_label = |label: &str| {
            let inner = label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
            inner && (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        let ends_in_letters =
            text.rsplit_once('.').is_some_and(|(_, last)| last.starts_with(|c: char| c.is_ascii_lowercase()));
        if text.len() <= MAX_DOMAIN && ends_in_letters && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDomain(text.chars().take(MAX_DOMAIN).collect()))
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
