//! Whether the dstack gateway connects to a port of this CVM. The app's deployment document decides (`app-compose.json`), which is
//! measured, and the gateway fails closed: what is not allowed there is closed without a word.

use std::{collections::BTreeMap, fmt};

use crate::registration::NetworkType;

/// What an app-compose.json says of the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayAccess {
    /// The CVM registers with the gateway at all (`gateway_enabled`).
    pub enabled: bool,
    /// Only listed ports are open (`port_policy.restrict_mode`).
    pub restricted: bool,
    /// Listed ports, and whether a PROXY protocol header comes before the client's bytes there (`port_policy.ports`, `pp`).
    pub ports: BTreeMap<u16, bool>,
}

/// Why clients of the gateway do not reach a node at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The gateway does not know the CVM.
    Disabled,
    /// It may not connect to the port.
    NotListed(u16),
    /// It connects, and says something first that an agent does not take.
    ProxyHeader(u16),
}

impl GatewayAccess {
    /// What keeps clients of the gateway from a node of this kind at this port, if anything does.
    #[must_use]
    pub fn closed(&self, port: u16, kind: NetworkType) -> Option<Closed> {
        if !self.enabled {
            return Some(Closed::Disabled);
        }
        match self.ports.get(&port) {
            // At a TLS node's port is an application, which may want the header.
            Some(true) if kind == NetworkType::Wireguard => Some(Closed::ProxyHeader(port)),
            Some(_) => None,
            None => self.restricted.then_some(Closed::NotListed(port)),
        }
    }
}

impl Closed {
    /// What the app-compose.json has to say.
    #[must_use]
    pub fn hint(self) -> String {
        let change = match self {
            Self::Disabled => "set `gateway_enabled` to true".to_owned(),
            Self::NotListed(port) => format!("list port {port} under `port_policy.ports`"),
            Self::ProxyHeader(port) => format!("leave `pp` out for port {port} under `port_policy.ports`"),
        };
        format!(
            "{change} in app-compose.json and deploy it again: its hash is another one then (`meshctl compose add HASH`)"
        )
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("app-compose.json does not enable the gateway (`gateway_enabled`)"),
            Self::NotListed(port) => write!(
                f,
                "app-compose.json keeps the gateway from port {port} (`port_policy.restrict_mode`, and it is not listed)"
            ),
            Self::ProxyHeader(port) => write!(
                f,
                "app-compose.json has the gateway send a PROXY protocol header to port {port} (`pp`), which is no TLS"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_open_unless_the_document_closes_it() {
        let open = GatewayAccess { enabled: true, ..GatewayAccess::default() };
        let kind = NetworkType::Wireguard;
        assert_eq!(open.closed(51822, kind), None);
        assert_eq!(GatewayAccess::default().closed(51822, kind), Some(Closed::Disabled));
        let listed = |restricted, pp| GatewayAccess { restricted, ports: [(51822, pp)].into(), ..open.clone() };
        for restricted in [false, true] {
            assert_eq!(listed(restricted, false).closed(51822, kind), None);
            assert_eq!(listed(restricted, true).closed(51822, kind), Some(Closed::ProxyHeader(51822)));
            assert_eq!(listed(restricted, true).closed(51822, NetworkType::TlsGateway), None);
        }
        assert_eq!(listed(true, false).closed(443, kind), Some(Closed::NotListed(443)));
        assert_eq!(listed(false, false).closed(443, kind), None, "listed for its header alone");
    }

    #[test]
    fn what_closes_it_names_the_field_to_change() {
        for (closed, field) in [
            (Closed::Disabled, "gateway_enabled"),
            (Closed::NotListed(51822), "51822 under `port_policy.ports`"),
            (Closed::ProxyHeader(51822), "`pp`"),
        ] {
            assert!(closed.hint().contains(field) && closed.hint().contains("meshctl compose add"), "{closed:?}");
            assert!(closed.to_string().starts_with("app-compose.json"), "{closed:?}");
        }
    }
}
