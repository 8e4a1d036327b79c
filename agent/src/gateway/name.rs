//! Names behind a gateway: `<instance id>-<port>s.<domain>`, the form in which it passes TLS through (dstack/gateway,
//! src/proxy.rs).

use std::{fmt, num::NonZeroU16, str::FromStr};

use mesh_core::id::InstanceId;
use rustls::pki_types::ServerName;

/// A host name has 253 characters at most, of which `<instance id>-<port>s.` takes 48.
const MAX_DOMAIN: usize = 205;
const MAX_LABEL: usize = 63;

/// A base domain of a gateway: lower-case labels, at least two, the last beginning with a letter. The contract's grammar
/// (`HostName.sol`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

/// What is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no gateway domain\nhint: use lower-case labels joined by dots, as in `dstack-prod5.phala.network`, without port or path"
)]
pub struct BadDomain(String);

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

/// Where one agent is reached through a gateway. Instance ids, not app ids: an app id leads to any of three instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The CVM.
    pub instance: InstanceId,
    /// The TCP port at which its agent listens.
    pub port: NonZeroU16,
    /// The gateway.
    pub domain: Domain,
}

impl Place {
    /// The name for SNI and DNS.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.to_string()).ok()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}s.{}", self.instance, self.port, self.domain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn domains_are_what_the_contract_takes() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(13));
        assert_eq!(longest.len(), MAX_DOMAIN);
        for good in ["gw.test", "dstack-pha-prod5.phala.network", "0.x1", "a.b.c.d", &longest] {
            assert_eq!(good.parse::<Domain>().unwrap().as_str(), good);
        }
        let (too_long, long_label) = (format!("{longest}b"), format!("{}.com", "a".repeat(64)));
        for bad in [
            "",
            "com",
            ".com",
            "a.",
            "a..b",
            "-a.b",
            "a-.b",
            "a.b-",
            "A.b",
            "a_b.c",
            "a.b:443",
            "https://a.b",
            "a.1",
            "10.0.0.1",
            "a.b.",
            "*.a.b",
            "a b.c",
            "ä.de",
            &too_long,
            &long_label,
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_place_is_a_server_name(instance: [u8; 20], port: NonZeroU16, domain in "[a-z0-9]{1,63}(\\.[a-z]{1,20}){1,5}") {
            let place = Place { instance: InstanceId(instance), port, domain: domain.parse().unwrap() };
            let name = place.to_string();
            prop_assert!(name.len() <= 253);
            let server_name = place.server_name().unwrap();
            prop_assert_eq!(server_name.to_str(), name.as_str());
        }
    }
}
