//! Names behind a gateway: `<instance id>-<port>s.<domain>`, the form in which it passes TLS through (dstack/gateway,
//! src/proxy.rs).

use std::{fmt, num::NonZeroU16};

pub use mesh_core::place::{BadDomain, Domain};
use mesh_core::{id::InstanceId, place::host_name};
use rustls::pki_types::ServerName;

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
    /// What to look up and connect to: the host name, and the gateway's port.
    pub(super) fn address(&self) -> (String, u16) {
        (self.to_string(), self.domain.port().get())
    }

    /// The same, as `tls://HOST:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        let (host, port) = self.address();
        format!("tls://{host}:{port}")
    }

    /// The name for SNI and DNS.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.to_string()).ok()
    }
}

/// The host name.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_name(self.instance, self.port, &self.domain))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_is_a_server_name(
            instance: [u8; 20], port: NonZeroU16, domain in "[a-z0-9]{1,63}(\\.[a-z]{1,20}){1,5}(:[1-3][0-9]{4})?",
        ) {
            let place = Place { instance: InstanceId(instance), port, domain: domain.parse().unwrap() };
            let name = place.to_string();
            prop_assert!(name.len() <= 253);
            let server_name = place.server_name().unwrap();
            prop_assert_eq!(server_name.to_str(), name.as_str());
            prop_assert_eq!(place.address(), (name, place.domain.port().get()));
        }
    }

    #[test]
    fn the_gateways_port_is_no_part_of_the_name() {
        let port = NonZeroU16::new(51822).unwrap();
        for (domain, gateway) in [("gw.example", 443), ("gw.example:8443", 8443)] {
            let place = Place { instance: InstanceId([7; 20]), port, domain: domain.parse().unwrap() };
            let host = format!("{}-51822s.gw.example", "07".repeat(20));
            assert_eq!(place.server_name().unwrap().to_str(), host);
            assert_eq!(place.endpoint(), format!("tls://{host}:{gateway}"));
        }
    }
}
