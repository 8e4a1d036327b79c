//! `--anonymize`: a status that can be shown to strangers. Tokens, states, numbers and addresses inside the mesh stay.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context as _;
use mesh_core::{id::WireguardKey, network::MeshNetwork, status::Status};
use serde_json::Value;

/// Masks names, keys, chain addresses, hashes, host names and every IP address outside the mesh network, the same thing
/// always by the same mask, also inside messages and hints.
pub(crate) fn anonymize(status: &Status) -> anyhow::Result<Status> {
    Masks::of(status).status(status)
}

/// Fields whose words are ours: a peer that is called `up` must not change the state of any peer. All others are masked.
const VOCABULARY: [&str; 14] = [
    "schema",
    "dataplane",
    "state",
    "membership",
    "kms_chain",
    "node_key_api",
    "guest_api",
    "finality",
    "on_expiry",
    "path",
    "path_reason",
    "reason",
    "kind",
    "severity",
];

/// What is masked, and by what: of one mesh, for its status and for every other text about it.
pub(crate) struct Masks {
    /// Text to its mask.
    known: BTreeMap<String, String>,
    /// The same by the first character, longest first: a mesh has thousands of names, and a status tens of thousands of texts.
    by_first: BTreeMap<char, Vec<(String, String)>>,
    network: Option<MeshNetwork>,
    /// IP addresses seen, with their number.
    addresses: BTreeMap<IpAddr, u16>,
}

impl Masks {
    /// Those for everything that a status names.
    pub(crate) fn of(status: &Status) -> Self {
        let mut masks = Self {
            known: BTreeMap::new(),
            by_first: BTreeMap::new(),
            network: status.registry.network,
            addresses: BTreeMap::new(),
        };
        masks.collect(status);
        masks.index();
        masks
    }

    /// The status with its masks.
    pub(crate) fn status(&mut self, status: &Status) -> anyhow::Result<Status> {
        let mut value = serde_json::to_value(status)?;
        self.apply(&mut value);
        let mut status: Status = serde_json::from_value(value).context("masking broke the status")?;
        // To the last wei, no other account of the chain has as much.
        status.own.member_balance = None;
        Ok(status)
    }

    /// A text with its masks. What the status does not name is not known here, but for IP addresses.
    pub(crate) fn text(&mut self, text: &str) -> String {
        self.masked(text)
    }

    fn collect(&mut self, status: &Status) {
        let (own, registry) = (&status.own, &status.registry);
        for (i, peer) in (1u8..=255).cycle().zip(&status.peers) {
            self.mask(&peer.name, format!("node-{}", peer.token_id));
            self.mask(&peer.public_key.to_string(), key_number(i, u32::from(peer.token_id)));
            for endpoint in peer.paths.iter().filter_map(|path| path.endpoint.as_ref()).chain(&peer.endpoint) {
                self.mask_host(endpoint, &format!("node-{}.example", peer.token_id));
                self.mask_gateway(endpoint);
            }
        }
        let other_keys = status.other_peers.iter().map(|peer| (peer.token_id, peer.tls_key));
        let tls_keys = status.peers.iter().map(|peer| (peer.token_id, peer.tls_key)).chain(other_keys);
        for (token, key) in tls_keys.filter_map(|(token, key)| Some((token, key?))) {
            self.mask(&key.to_string(), hex_number(32, u64::from(u32::from(token)) << 32));
        }
        if let Some(key) = own.tls_key {
            self.mask(&key.to_string(), hex_number(32, 1));
        }
        if let Some(name) = &own.name {
            self.mask(name, own.token_id.map_or_else(|| "self".to_owned(), |token| format!("node-{token}")));
        }
        if let Some(key) = own.public_key {
            self.mask(&key.to_string(), key_number(0, 0));
        }
        self.mask(&own.instance_id.to_string(), hex_number(20, 1));
        if let Some(url) = &own.url {
            self.mask(url, "https://self.example".to_owned());
        }
        for peer in &status.other_peers {
            let token = peer.token_id;
            self.mask(&peer.name, format!("node-{token}"));
            self.mask(&peer.instance_id.to_string(), hex_number(20, u64::from(u32::from(token)) << 32));
            if let Some(url) = &peer.url {
                self.mask(url, format!("https://node-{token}.example"));
            }
        }
        let roots = own.identity.trusted_kms_roots.iter().copied().chain([own.identity.kms_root]);
        let apps = own.identity.trusted_app_ids.iter().map(|app_id| (*app_id).into());
        let accounts = [registry.contract, own.node_address, own.member_address].into_iter().chain(roots).chain(apps);
        for (number, account) in (1u64..).zip(accounts) {
            // The same account may be an app id without and a contract with `0x`, in any case.
            let mask = hex_number(20, number);
            let digits = hex::encode(account);
            self.mask(&account.to_string(), format!("0x{mask}"));
            self.mask(&format!("0x{digits}"), format!("0x{mask}"));
            self.mask(&digits, mask);
        }
        let hashes = own.identity.compose_hash.into_iter().chain(registry.block.as_ref().map(|block| block.hash));
        for (number, hash) in (1u64..).zip(hashes) {
            self.mask(&hash.to_string(), format!("0x{}", hex_number(32, number)));
        }
        if let Some(mesh) = &registry.mesh {
            self.mask(mesh, "mesh".to_owned());
        }
        for (number, source) in (1..).zip(&registry.sources) {
            let mask = format!("rpc-{number}");
            self.mask(&source.id, mask.clone());
            // Errors name the host without the scheme.
            self.mask_host(&source.id, &format!("{mask}.example"));
        }
    }

    fn index(&mut self) {
        for (text, mask) in &self.known {
            if let Some(first) = text.chars().next() {
                self.by_first.entry(first).or_default().push((text.clone(), mask.clone()));
            }
        }
        for bucket in self.by_first.values_mut() {
            bucket.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
    }

    fn mask(&mut self, text: &str, mask: String) {
        if !text.is_empty() {
            self.known.entry(text.to_owned()).or_insert(mask);
        }
    }

    /// Masks the host name of an endpoint or URL; addresses are found wherever they are.
    fn mask_host(&mut self, endpoint: &str, mask: &str) {
        let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let host = authority.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        if host.contains('.') && host.parse::<IpAddr>().is_err() {
            self.mask(host, mask.to_owned());
        }
    }

    /// Masks the domain of a gateway, which is part of the names of all that are behind it.
    fn mask_gateway(&mut self, endpoint: &str) {
        let host = endpoint.strip_prefix("tls://").and_then(|host| host.rsplit_once(':')).map(|(host, _)| host);
        if let Some((_, domain)) = host.and_then(|host| host.split_once('.')) {
            self.mask(domain, "gateway.example".to_owned());
        }
    }

    fn apply(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.masked(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(item)),
            Value::Object(fields) => {
                let free = fields.iter_mut().filter(|(name, _)| !VOCABULARY.contains(&name.as_str()));
                free.for_each(|(_, item)| self.apply(item));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Replaces what is known, longest first and only whole words, then every IP address.
    fn masked(&mut self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
            let starts = boundary(text[..text.len() - rest.len()].chars().next_back());
            let bucket = self.by_first.get(&c).filter(|_| starts);
            let hit = bucket.into_iter().flatten().find(|(known, _)| {
                rest.strip_prefix(known.as_str()).is_some_and(|after| boundary(after.chars().next()))
            });
            match hit {
                Some((known, mask)) => {
                    result.push_str(mask);
                    rest = &rest[known.len()..];
                }
                None => {
                    result.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        self.without_addresses(&result)
    }

    fn without_addresses(&mut self, text: &str) -> String {
        let in_address = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':' || c == '%';
        let mut result = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let run = rest.find(|c| !in_address(c)).unwrap_or(rest.len());
            result.push_str(&self.masked_run(&rest[..run]));
            rest = &rest[run..];
            let gap = rest.find(in_address).unwrap_or(rest.len());
            result.push_str(&rest[..gap]);
            rest = &rest[gap..];
        }
        result
    }

    /// A run of characters that may be in an address: `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `fe80::1%e`, with punctuation around.
    fn masked_run(&mut self, run: &str) -> String {
        let (run, zone) = run.split_at(run.find('%').unwrap_or(run.len()));
        let inner = run.trim_matches('.').trim_end_matches(':');
        for inner in [run, inner, inner.trim_matches([':', '.'])] {
            let masked = if let Ok(address) = inner.parse::<IpAddr>() {
                self.address(address).to_string()
            } else if let Ok(SocketAddr::V4(endpoint)) = inner.parse() {
                format!("{}:{}", self.address(IpAddr::V4(*endpoint.ip())), endpoint.port())
            } else {
                continue;
            };
            return run.replacen(inner, &masked, 1) + zone;
        }
        // A word that ends in a hex digit before it: `via:192.0.2.1`.
        let pieces = run.split(':').map(|piece| match piece.trim_matches('.').parse::<Ipv4Addr>() {
            Ok(address) => piece.replacen(&address.to_string(), &self.address(IpAddr::V4(address)).to_string(), 1),
            Err(_) => piece.to_owned(),
        });
        pieces.collect::<Vec<_>>().join(":") + zone
    }

    /// The mask of an address: one reserved for documentation. The mesh's own, loopback and unspecified ones stay.
    fn address(&mut self, address: IpAddr) -> IpAddr {
        let in_mesh = |v4| self.network.is_some_and(|network| network.network().contains(v4));
        if address.is_loopback() || address.is_unspecified() || matches!(address, IpAddr::V4(v4) if in_mesh(v4)) {
            return address;
        }
        // Numbers wrap, which only makes two look the same.
        let next = (self.addresses.len() % usize::from(u16::MAX)) as u16 + 1;
        let number = *self.addresses.entry(address).or_insert(next);
        match address {
            // TEST-NET-2 has 254 of them.
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, (number % 254 + 1) as u8)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)),
        }
    }
}

/// A well-formed key that no peer has.
fn key_number(first: u8, number: u32) -> String {
    let mut key = [0; 32];
    key[0] = first;
    key[28..].copy_from_slice(&number.to_be_bytes());
    WireguardKey(key).to_string()
}

fn hex_number(bytes: usize, number: u64) -> String {
    format!("{number:0width$x}", width = bytes * 2)
}

#[cfg(test)]
mod tests {
    use mesh_core::id::TlsKey;

    use super::*;
    use crate::{render::status_text, samples};

    #[test]
    fn nothing_that_identifies_is_left() {
        let mut status = samples::degraded();
        status.registry.sources[2].error =
            Some("https://rpc-b.example: connect 192.0.2.77:443, [2001:db8:1::7]:443: refused".to_owned());
        let [own, other] = [[0xa7; 32], [0xb9; 32]].map(TlsKey);
        (status.own.tls_key, status.peers[0].tls_key) = (Some(own), Some(other));
        let masked = anonymize(&status).unwrap();
        let text = serde_json::to_string(&masked).unwrap();
        for secret in [
            "a7a7",
            "b9b9",
            "pg-1",
            "pg-2",
            "redis-1",
            "kafka",
            "prod-db",
            "203.0.113",
            "2001:db8::11",
            "gw.example",
            "rpc-a.example",
            "rpc-b.example",
            "192.0.2.77",
            "2001:db8:1::7",
            "3f9c0b6a",
            "web-1",
            "c41d0b6a",
            "7ae1",
            "5e5132",
            "0x1111",
            "9b2c",
            "5d1e",
        ] {
            assert!(!text.to_lowercase().contains(secret), "{secret} is left in {text}");
        }
        for key in status.peers.iter().map(|peer| peer.public_key).chain(status.own.public_key) {
            assert!(!text.contains(&key.to_string()));
        }
        insta::assert_snapshot!(status_text(&masked, false));
    }

    #[test]
    fn tokens_mesh_addresses_and_times_stay() {
        let status = samples::degraded();
        let masked = anonymize(&status).unwrap();
        assert_eq!(masked.generated_at, status.generated_at);
        assert_eq!(masked.own.address, status.own.address);
        let tokens =
            |status: &Status| status.peers.iter().map(|peer| (peer.token_id, peer.address)).collect::<Vec<_>>();
        assert_eq!(tokens(&masked), tokens(&status));
        assert_eq!(masked.verdict, status.verdict);
        assert_eq!(masked.warnings[0].hint.as_deref(), Some("meshctl why node-9"));
    }

    #[test]
    fn the_same_thing_has_the_same_mask_and_others_another() {
        let masked = anonymize(&samples::degraded()).unwrap();
        assert_eq!(masked.peers[1].paths[0].endpoint, masked.peers[3].endpoint);
        assert_ne!(masked.peers[0].endpoint, masked.peers[3].endpoint);
        assert_eq!(masked.own.identity.kms_root, masked.own.identity.trusted_kms_roots[0]);
        assert_ne!(masked.own.identity.kms_root, masked.registry.contract);
        let keys: std::collections::BTreeSet<_> = masked.peers.iter().map(|peer| peer.public_key).collect();
        assert_eq!(keys.len(), masked.peers.len());
    }

    #[test]
    fn a_name_inside_a_word_is_not_the_name() {
        let mut status = samples::degraded();
        status.peers[0].name = "up".to_owned();
        status.warnings[0].message = "up is upset".to_owned();
        assert_eq!(anonymize(&status).unwrap().warnings[0].message, "node-3 is upset");
    }

    #[test]
    fn addresses_are_found_in_any_company() {
        let mut status = samples::degraded();
        let mut shown = |text: &str| {
            status.warnings[0].message = text.to_owned();
            anonymize(&status).unwrap().warnings[0].message.clone()
        };
        for text in [
            "192.0.2.77",
            "(192.0.2.77:443)",
            "lost 192.0.2.77.",
            "lost 192.0.2.77:443: refused",
            "via:192.0.2.77",
            "a:192.0.2.77:443",
            "at .192.0.2.77",
            "[2001:db8:1::7]:443",
            "2001:db8:1::7:",
            "fe80::192.0.2.77%eth0",
            "fe80::2077%eth0 is gone",
            "::ffff:192.0.2.77",
        ] {
            let masked = shown(text);
            assert!(
                !masked.contains("192.0.2") && !masked.contains("db8:1::7") && !masked.contains("2077"),
                "{masked}"
            );
            assert!(masked.contains("198.51.100.") || masked.contains("2001:db8::"), "{text} became {masked}");
        }
        for plain in ["", ":", "a.b:c", "::", "10.0.1.9", "127.0.0.1:8545", "took 1.5s", "deadbeef"] {
            assert_eq!(shown(plain), plain);
        }
    }

    #[test]
    fn a_mesh_of_thousands_is_masked_in_time() {
        let took = |peers| {
            let mut status = samples::degraded();
            let pattern = status.peers[0].clone();
            status.peers = (1..=peers)
                .map(|number| {
                    let mut peer = pattern.clone();
                    peer.token_id = mesh_core::id::TokenId::new(number).unwrap();
                    peer.name = format!("node-of-alice-{number}");
                    peer
                })
                .collect();
            let before = processor_time();
            let masked = anonymize(&status).unwrap();
            let took = processor_time() - before;
            assert!(!serde_json::to_string(&masked).unwrap().contains("alice"));
            took
        };
        // On any machine: each with each would take a hundred times as long.
        let (few, many) = (took(300), took(3000));
        assert!(many < 30 * few, "300 peers took {few:?}, and 3,000 {many:?}");
    }

    /// What this thread has had of a processor so far.
    fn processor_time() -> std::time::Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        std::time::Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    }
}
