//! Places behind the dstack gateway. The contract's record names a base domain by its index, so that removing one there removes every
//! place under it; a host name is made of instance, port and domain. A gateway that does not listen on 443 has its own port in the
//! base domain, as `HOST:PORT`.

use std::{fmt, num::NonZeroU16, str::FromStr};

use crate::{
    id::InstanceId,
    registration::{Gateway, SignedGateway},
};

/// A host name has 253 characters at most, of which `<instance id>-<port>s.` takes 48.
const MAX_DOMAIN: usize = 205;
const MAX_LABEL: usize = 63;
/// Characters of `:65535`.
const MAX_PORT: usize = 6;
/// Where a gateway listens whose base domain names no port: that of `https`.
const HTTPS: NonZeroU16 = NonZeroU16::new(443).expect("it is not zero");

/// A base domain of a gateway: `HOST`, or `HOST:PORT` where it does not listen on 443. The host is lower-case labels, at least two,
/// the last beginning with a letter; the port is decimal, without leading zeros, and never 443, so that a gateway has one spelling.
/// The contract's grammar (`BaseDomain.sol`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain {
    text: String,
    /// How much of the text is the host.
    host: usize,
    port: NonZeroU16,
}

/// A text that is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no gateway domain\nhint: use lower-case labels joined by dots, as in `dstack-prod5.phala.network`, and `:PORT` after them only where the gateway does not listen on 443"
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
    /// As the contract lists it; `None` while the contract does not list the domain.
    #[must_use]
    pub fn gateway(&self, base_domains: &[Option<String>]) -> Option<Gateway> {
        let index = base_domains.iter().position(|listed| listed.as_deref() == Some(self.domain.as_str()))?;
        Some(Gateway { domain: u16::try_from(index + 1).ok()?, port: self.port.get() })
    }

    /// As a registration names it.
    #[must_use]
    pub fn signed(&self) -> SignedGateway {
        SignedGateway::named(self.domain.as_str(), self.port.get())
    }
}

/// The domain that a record names by index, unless the contract has removed it, never had it, or returns something that is no
/// domain: an RPC endpoint may return anything.
#[must_use]
pub fn domain_of(gateway: Gateway, base_domains: &[Option<String>]) -> Option<Domain> {
    let listed = base_domains.get(usize::from(gateway.domain).checked_sub(1)?)?;
    listed.as_ref()?.parse().ok()
}

/// `<instance id>-<port>s.<host>`: the name for DNS and in TLS by which the gateway passes TLS through to that port of the instance,
/// which `s` stands for (dstack/gateway, `src/proxy.rs`). The gateway's own port is [`Domain::port`].
#[must_use]
pub fn host_name(instance: InstanceId, port: NonZeroU16, domain: &Domain) -> String {
    format!("{instance}-{port}s.{}", domain.host())
}

/// `https://<instance id>-<port>s.<domain>`, with the gateway's port where the domain names one: where an application is. `None` where
/// [`domain_of`] is.
#[must_use]
pub fn url(instance: InstanceId, gateway: Gateway, base_domains: &[Option<String>]) -> Option<String> {
    let domain = domain_of(gateway, base_domains)?;
    Some(format!("https://{instance}-{}s.{domain}", gateway.port))
}

impl Domain {
    /// As it is written, with the port if it names one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host name alone.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.text[..self.host]
    }

    /// The TCP port at which the gateway listens.
    #[must_use]
    pub const fn port(&self) -> NonZeroU16 {
        self.port
    }
}

impl FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let bad = || BadDomain(text.chars().take(MAX_DOMAIN + MAX_PORT).collect());
        let (host, port) = match text.split_once(':') {
            None => (text, HTTPS),
            Some((host, port)) => (host, other_port(port).ok_or_else(bad)?),
        };
        if is_host(host) { Ok(Self { text: text.to_owned(), host: host.len(), port }) } else { Err(bad()) }
    }
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        inner && (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let ends_in_letters =
        text.rsplit_once('.').is_some_and(|(_, last)| last.starts_with(|c: char| c.is_ascii_lowercase()));
    text.len() <= MAX_DOMAIN && ends_in_letters && text.split('.').all(is_label)
}

/// A port that has to be said, in its one spelling.
fn other_port(text: &str) -> Option<NonZeroU16> {
    let is_plain = text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|port| is_plain && *port != HTTPS)
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
