//! Reading a `set=1` request, a line at a time, into a [`DeviceUpdate`].

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::allowed_ips::canonical;
use crate::config::{DeviceUpdate, PeerUpdate};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::secret::Secret;
use crate::sys;

/// What is wrong with a line of a request. The value may be secret and is not repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UapiError {
    /// The line is no pair of key and value.
    #[error("a line without `=`")]
    NoEquals,
    /// The text before the `=`, or `(not a word)` where it could be a secret.
    #[error("`{0}` is not a key of the protocol, or not here")]
    UnknownKey(String),
    /// The key of the line.
    #[error("the value of `{0}` is not valid")]
    BadValue(&'static str),
    /// Of 4,000,000 lines, the next one is refused.
    #[error("the request has more than {LINE_LIMIT} lines")]
    TooLong,
}

impl DeviceUpdate {
    /// The update that a `set=1` request of the UAPI asks for: `lines` are those between `set=1` and the empty line that ends the
    /// request, without line feeds.
    ///
    /// # Errors
    /// Of the first line that is not valid. No line behind it is read.
    pub fn from_uapi<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, UapiError> {
        let mut request = SetRequest::default();
        lines.into_iter().try_for_each(|line| request.line(line))?;
        Ok(request.finish())
    }
}

/// More lines than any device needs: it bounds the memory that a request can take.
const LINE_LIMIT: usize = 4_000_000;

/// A request that is being read.
#[derive(Debug, Default)]
pub(crate) struct SetRequest {
    update: DeviceUpdate,
    peer: Option<PeerRequest>,
    lines: usize,
}

/// A peer's part of it.
#[derive(Debug)]
struct PeerRequest {
    /// All but its networks.
    update: PeerUpdate,
    /// In the order of the lines: of those for one network, the last counts.
    networks: Vec<(Change, IpNetwork)>,
}

/// What a line asks to be done with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl PeerRequest {
    fn new(public_key: PublicKey) -> Self {
        Self { update: PeerUpdate::new(public_key), networks: Vec::new() }
    }

    fn finish(self) -> PeerUpdate {
        let Self { mut update, networks } = self;
        // Most requests remove none, and then the order says nothing.
        if networks.iter().any(|(change, _)| *change == Change::Remove) {
            let last: BTreeMap<IpNetwork, Change> =
                networks.iter().map(|(change, network)| (canonical(*network), *change)).collect();
            let of = |wanted| last.iter().filter(move |(_, change)| **change == wanted).map(|(network, _)| *network);
            update.allowed_ips.extend(of(Change::Add));
            update.removed_allowed_ips.extend(of(Change::Remove));
        } else {
            update.allowed_ips.extend(networks.into_iter().map(|(_, network)| network));
        }
        update
    }
}

impl SetRequest {
    /// Takes one line, without its line feed.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), UapiError> {
        self.lines += 1;
        if self.lines > LINE_LIMIT {
            return Err(UapiError::TooLong);
        }
        let (key, value) = line.split_once('=').ok_or(UapiError::NoEquals)?;
        if key == "public_key" {
            let mut bytes = [0; 32];
            hex_bytes("public_key", value, &mut bytes)?;
            let public_key = PublicKey::from_bytes(bytes);
            self.update.peers.extend(self.peer.replace(PeerRequest::new(public_key)).map(PeerRequest::finish));
            return Ok(());
        }
        match &mut self.peer {
            None => device_line(&mut self.update, key, value),
            Some(peer) => peer_line(peer, key, value),
        }
    }

    /// The request is complete.
    pub(crate) fn finish(mut self) -> DeviceUpdate {
        self.update.peers.extend(self.peer.map(PeerRequest::finish));
        self.update
    }
}

fn device_line(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), UapiError> {
    match key {
        "private_key" => update.private_key = Some(PrivateKey::from_bytes(secret("private_key", value)?)),
        "listen_port" => update.listen_port = Some(number("listen_port", value)?),
        "fwmark" if value.is_empty() => update.fwmark = Some(0),
        "fwmark" => update.fwmark = Some(number("fwmark", value)?),
        "replace_peers" => update.replace_peers = only_true("replace_peers", value)?,
        _ => return Err(unknown(key)),
    }
    Ok(())
}

fn peer_line(request: &mut PeerRequest, key: &str, value: &str) -> Result<(), UapiError> {
    let peer = &mut request.update;
    match key {
        "remove" => peer.remove = only_true("remove", value)?,
        "update_only" => peer.update_only = only_true("update_only", value)?,
        "preshared_key" => peer.preshared_key = Some(PresharedKey::from_bytes(secret("preshared_key", value)?)),
        "endpoint" => peer.endpoint = Some(endpoint(value).ok_or(UapiError::BadValue("endpoint"))?),
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(number("persistent_keepalive_interval", value)?);
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = only_true("replace_allowed_ips", value)?,
        "allowed_ip" => {
            let (change, network) = match value.strip_prefix('-') {
                Some(network) => (Change::Remove, network),
                None => (Change::Add, value.strip_prefix('+').unwrap_or(value)),
            };
            request.networks.push((change, network_of(network).ok_or(UapiError::BadValue("allowed_ip"))?));
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(UapiError::BadValue("protocol_version")),
        _ => return Err(unknown(key)),
    }
    Ok(())
}

/// `address/length`. `IpNetwork` itself takes an address alone, a mask and a length with a sign, which the protocol does not.
fn network_of(value: &str) -> Option<IpNetwork> {
    let (address, len) = value.split_once('/')?;
    IpNetwork::new(address.parse().ok()?, number("allowed_ip", len).ok()?).ok()
}

/// A key that does not look like one of this protocol is not repeated: it may be a secret in the wrong place.
fn unknown(key: &str) -> UapiError {
    let is_word = key.len() <= 40 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    UapiError::UnknownKey(if is_word { key } else { "(not a word)" }.to_owned())
}

fn number<N: FromStr>(key: &'static str, value: &str) -> Result<N, UapiError> {
    // `from_str` would accept a sign.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UapiError::BadValue(key));
    }
    value.parse().map_err(|_| UapiError::BadValue(key))
}

fn only_true(key: &'static str, value: &str) -> Result<bool, UapiError> {
    if value == "true" { Ok(true) } else { Err(UapiError::BadValue(key)) }
}

fn secret(key: &'static str, value: &str) -> Result<Secret, UapiError> {
    Secret::fill(|bytes| hex_bytes(key, value, bytes))
}

fn hex_bytes(key: &'static str, value: &str, bytes: &mut [u8; 32]) -> Result<(), UapiError> {
    let digits = value.as_bytes();
    if digits.len() != 64 {
        return Err(UapiError::BadValue(key));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(UapiError::BadValue(key));
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Ok(())
}

/// `address:port`, or `[address%scope]:port` with the scope as a number or an interface's name.
fn endpoint(value: &str) -> Option<SocketAddr> {
    let with_scope = value.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")).and_then(|(host, port)| {
        let (ip, scope) = host.split_once('%')?;
        let scope = match number::<u32>("endpoint", scope) {
            Ok(scope) => scope,
            Err(_) => sys::interface_index(&CString::new(scope).ok()?)?,
        };
        Some(SocketAddrV6::new(ip.parse().ok()?, number("endpoint", port).ok()?, 0, scope).into())
    });
    let address = with_scope.or_else(|| value.parse::<SocketAddr>().ok())?;
    let multicast = match address.ip() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    (!multicast && address.port() != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";

    fn parse(text: &str) -> Result<DeviceUpdate, UapiError> {
        DeviceUpdate::from_uapi(text.lines())
    }

    #[test]
    fn a_whole_request() {
        let text = format!(
            "private_key={KEY}\nlisten_port=12912\nfwmark=\nreplace_peers=true\npublic_key={KEY}\npreshared_key={KEY}\n\
             endpoint=[abcd:23::33%2]:51820\nreplace_allowed_ips=true\nallowed_ip=192.168.4.4/32\npublic_key={KEY}\n\
             endpoint=182.122.22.19:3233\npersistent_keepalive_interval=111\nallowed_ip=fd00::/8\n\
             protocol_version=1\npublic_key={KEY}\nremove=true\nupdate_only=true"
        );
        let update = parse(&text).unwrap();
        assert_eq!((update.listen_port, update.fwmark, update.replace_peers), (Some(12912), Some(0), true));
        let [first, second, third] = &update.peers[..] else { panic!("{update:?}") };
        assert_eq!(first.endpoint.unwrap().to_string(), "[abcd:23::33%2]:51820");
        assert!(first.replace_allowed_ips && first.preshared_key.is_some());
        assert_eq!(second.persistent_keepalive, Some(111));
        assert_eq!(second.allowed_ips, ["fd00::/8".parse::<IpNetwork>().unwrap()]);
        assert!(third.remove && third.update_only);
        assert!(!format!("{update:?}").contains("e84b5a"), "a key in the debug output");
    }

    #[test]
    fn a_sign_says_whether_a_network_comes_or_goes() {
        let networks = |text: &str| {
            let update = parse(&format!("public_key={KEY}\n{text}")).unwrap();
            let shown = |networks: &[IpNetwork]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            (shown(&update.peers[0].allowed_ips), shown(&update.peers[0].removed_allowed_ips))
        };
        let pair = |added: &str, removed: &str| (added.to_owned(), removed.to_owned());
        assert_eq!(networks("allowed_ip=+10.2.0.0/16\nallowed_ip=10.1.0.0/16"), pair("10.2.0.0/16 10.1.0.0/16", ""));
        assert_eq!(networks("allowed_ip=-10.1.0.0/24\nallowed_ip=fd00::/8"), pair("fd00::/8", "10.1.0.0/24"));
        // Line by line, so that the last counts, whatever the host bits are.
        assert_eq!(networks("allowed_ip=10.1.0.0/16\nallowed_ip=-10.1.2.3/16"), pair("", "10.1.0.0/16"));
        assert_eq!(networks("allowed_ip=-10.1.2.3/16\nallowed_ip=+10.1.0.0/16"), pair("10.1.0.0/16", ""));
    }

    #[test]
    fn errors_name_the_key_and_repeat_no_secret() {
        let bad = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(bad("private_key=secret"), "the value of `private_key` is not valid");
        assert_eq!(bad("listen_port=70000"), "the value of `listen_port` is not valid");
        assert_eq!(bad("listen_port=+7"), "the value of `listen_port` is not valid");
        assert_eq!(bad("allowed_ip=10.0.0.0/8"), "`allowed_ip` is not a key of the protocol, or not here");
        // A private key in base64, with an `=` of its own.
        let said = bad("gI6EdUSYvn8ugXOt8QQD6Yc+JyiZxIhp3GInSWRfWGE=");
        assert!(!said.contains("gI6E"), "{said}");
        let peer = format!("public_key={KEY}\n");
        for line in [
            "allowed_ip=10.0.0.0",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=-10.0.0.0",
            "allowed_ip=-10.0.0.0/33",
            "allowed_ip=-",
            "allowed_ip=+",
            "allowed_ip=--10.0.0.0/8",
            "allowed_ip=+-10.0.0.0/8",
            "allowed_ip=- 10.0.0.0/8",
            "allowed_ip=10.0.0.0/-8",
            "allowed_ip=10.0.0.0/+8",
            "allowed_ip=10.0.0.0/255.0.0.0",
            "allowed_ip=10.0.0.0/",
            "endpoint=host:1",
            "endpoint=1.2.3.4",
            "endpoint=224.0.0.1:7",
            "endpoint=[ff02::1]:7",
            "endpoint=1.2.3.4:0",
            "remove=false",
            "protocol_version=2",
            "persistent_keepalive_interval=65536",
            "listen_port=1",
            "no equals sign",
        ] {
            assert!(parse(&format!("{peer}{line}")).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(
            lines in prop::collection::vec(
                prop_oneof![
                    any::<String>(),
                    ("(public_key|private_key|preshared_key|endpoint|allowed_ip|fwmark|remove|x)", "[0-9a-f:%./\\[\\]=]{0,70}")
                        .prop_map(|(key, value)| format!("{key}={value}")),
                    Just(format!("public_key={KEY}")),
                ],
                0..12,
            ),
        ) {
            let mut request = SetRequest::default();
            for line in &lines {
                let _ = request.line(line);
            }
            request.finish();
        }

        #[test]
        fn what_is_written_is_read(port in 1_u16.., ip in any::<IpAddr>()) {
            let address = SocketAddr::new(ip, port);
            let multicast = ip.is_multicast() || ip == IpAddr::from([255; 4]);
            prop_assert_eq!(endpoint(&address.to_string()), (!multicast).then_some(address));
        }
    }
}
