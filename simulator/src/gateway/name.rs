//! Server names: `<id>[-[<port>][s|g]].<domain>` (dstack/gateway/src/proxy.rs).

use std::fmt;
use std::str::FromStr;

/// Where a server name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// An instance id or an app id: both are 20 bytes, and the gateway looks among instances first.
    pub id: [u8; 20],
    /// Port of the instance.
    pub port: u16,
    /// Who ends the TLS.
    pub tls: TlsEnd,
}

/// Who ends the TLS of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsEnd {
    /// The instance: `s`. The gateway passes on what it gets.
    Instance,
    /// The gateway, which passes on what was inside.
    Gateway,
    /// The gateway, which offers HTTP/2 to the client: `g`.
    GatewayHttp2,
}

/// A name that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not below a domain of this gateway.
    #[error("the domain of {0:?} is not served here, and DNS TXT records of custom domains are not looked up")]
    Domain(String),
    /// Not an id with an optional port.
    #[error("{0:?} is not `<id>`, `<id>-<port>`, `<id>-<port>s` or `<id>-<port>g`")]
    Form(String),
    /// No id.
    #[error("{0:?} is no app id or instance id, which have 40 lower-case hex digits")]
    Id(String),
}

impl Route {
    /// Reads a server name as the gateway of `domains` does. Letters must be in lower case.
    ///
    /// # Errors
    /// When the name leads nowhere.
    pub fn parse(name: &str, domains: &[Domain]) -> Result<Self, BadName> {
        let (label, domain) = name.split_once('.').ok_or_else(|| BadName::Domain(name.to_owned()))?;
        if !domains.iter().any(|served| served.0 == domain) {
            return Err(BadName::Domain(name.to_owned()));
        }
        let (id, form) = label.split_once('-').unwrap_or((label, ""));
        let (port, tls) = match form.as_bytes().last() {
            Some(b's') => (&form[..form.len() - 1], TlsEnd::Instance),
            Some(b'g') => (&form[..form.len() - 1], TlsEnd::GatewayHttp2),
            _ => (form, TlsEnd::Gateway),
        };
        let port = match (port, tls) {
            ("", TlsEnd::Instance) => 443,
            ("", TlsEnd::Gateway | TlsEnd::GatewayHttp2) => 80,
            (port, _) => port.parse().map_err(|_| BadName::Form(label.to_owned()))?,
        };
        Ok(Self { id: parse_id(id).ok_or_else(|| BadName::Id(id.to_owned()))?, port, tls })
    }
}

fn parse_id(text: &str) -> Option<[u8; 20]> {
    let mut id = [0; 20];
    hex::decode_to_slice(text, &mut id).ok()?;
    text.bytes().all(|digit| !digit.is_ascii_uppercase()).then_some(id)
}

/// A domain below which a gateway serves names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

/// What is no domain.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no domain; use lower-case labels joined by dots, such as `gw.example`")]
pub struct BadDomain(String);

impl FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let label = |label: &str| {
            let inner = label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
            inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        // A name below it has 49 characters more at least, and no name has more than 253.
        if text.len() <= 200 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDomain(text.to_owned()))
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3327603e03f5bd1f830812ca4a789277fc31f577";

    fn domains() -> Vec<Domain> {
        ["gw.example", "dstack-pha-prod5.phala.network"].map(|domain| domain.parse().unwrap()).to_vec()
    }

    fn parse(name: &str) -> Result<Route, BadName> {
        Route::parse(name, &domains())
    }

    #[test]
    fn every_form_leads_where_the_gateway_sends_it() {
        for (form, port, tls) in [
            ("", 80, TlsEnd::Gateway),
            ("-", 80, TlsEnd::Gateway),
            ("-8080", 8080, TlsEnd::Gateway),
            ("-08080", 8080, TlsEnd::Gateway),
            ("-s", 443, TlsEnd::Instance),
            ("-8443s", 8443, TlsEnd::Instance),
            ("-51822s", 51822, TlsEnd::Instance),
            ("-65535s", 65535, TlsEnd::Instance),
            ("-0s", 0, TlsEnd::Instance),
            ("-g", 80, TlsEnd::GatewayHttp2),
            ("-50051g", 50051, TlsEnd::GatewayHttp2),
        ] {
            for domain in domains() {
                let route = parse(&format!("{ID}{form}.{domain}")).unwrap();
                assert_eq!((hex::encode(route.id).as_str(), route.port, route.tls), (ID, port, tls), "{form}");
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let forms = [
            "-65536s",
            "-8443sg",
            "-8443gs",
            "-gs",
            "-sg",
            "-ss",
            "-gg",
            "-s8443",
            "-8443-s",
            "-8443s-",
            "--s",
            "-x",
            "-8443S",
            "- 8443s",
            "-1_0s",
            "-51822s-1",
            "-\u{661}s",
        ];
        for form in forms {
            let label = format!("{ID}{form}");
            assert_eq!(parse(&format!("{label}.gw.example")), Err(BadName::Form(label)), "{form}");
        }
    }

    #[test]
    fn ids_have_forty_lower_case_digits() {
        let upper = ID.to_uppercase();
        let (longer, prefixed) = (format!("{ID}00"), format!("0x{ID}"));
        // With `s` but without a dash, as some documentation has it, the letter belongs to the id.
        let dashless = format!("{ID}s");
        for id in ["", "health", "gateway", &ID[1..], &upper, &longer, &prefixed, &dashless, "myapp"] {
            assert_eq!(parse(&format!("{id}-8443s.gw.example")), Err(BadName::Id(id.to_owned())), "{id}");
        }
        assert_eq!(parse(&format!("{dashless}.gw.example")), Err(BadName::Id(dashless)));
    }

    #[test]
    fn other_domains_are_refused() {
        for domain in ["", ".", ".example", ".gw.example.", ".GW.example", ".x.gw.example", ".gw.example.org"] {
            let name = format!("{ID}-8443s{domain}");
            assert_eq!(parse(&name), Err(BadName::Domain(name.clone())), "{name}");
        }
    }

    #[test]
    fn domains_are_labels_joined_by_dots() {
        for good in ["gw.example", "localhost", "a-1.b", "1.2"] {
            assert_eq!(good.parse::<Domain>().unwrap().to_string(), good);
        }
        let (long, longer) = ("a".repeat(64), "a.".repeat(100) + "a");
        for bad in ["", ".", "gw.", ".gw", "gw..example", "*.gw", "Gw", "-a", "a-", "gw:443", &long, &longer] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(name in "\\PC{0,80}") {
            let _ = parse(&name);
            let _ = parse(&format!("{name}.gw.example"));
            let _ = parse(&format!("{ID}-{name}.gw.example"));
        }

        #[test]
        fn what_is_written_by_the_grammar_is_read_back(
            id in any::<[u8; 20]>(),
            port in proptest::option::of(any::<u16>()),
            letter in "[sg]?",
        ) {
            let digits = port.map_or_else(String::new, |port| port.to_string());
            let route = parse(&format!("{}-{digits}{letter}.gw.example", hex::encode(id))).unwrap();
            let (tls, default) = match letter.as_str() {
                "s" => (TlsEnd::Instance, 443),
                "g" => (TlsEnd::GatewayHttp2, 80),
                _ => (TlsEnd::Gateway, 80),
            };
            prop_assert_eq!(route, Route { id, port: port.unwrap_or(default), tls });
        }
    }
}
