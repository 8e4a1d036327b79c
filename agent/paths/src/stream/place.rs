//! Names behind a gateway: `<instance id>-<port>s.<domain>`, the form in which it passes TLS through (dstack/gateway,
//! src/proxy.rs).

use std::{fmt, num::NonZeroU16};

use mesh_core::id::InstanceId;
pub use mesh_core::place::{BadDomain, Domain};
use rustls::pki_types::ServerName;

/// Where every gateway listens.
pub(crate) const GATEWAY_PORT: u16 = 443;

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
