//! Requests at the configuration socket.

use std::fmt::Write as _;

use crate::config::DeviceUpdate;
use crate::uapi::parse::{ParseError, SetRequest};

/// The lines of a `set=1` request. What was understood can be written down and is understood the same, and no key shows.
pub fn uapi(input: &[u8]) {
    let mut request = SetRequest::default();
    for line in input.split(|byte| *byte == b'\n') {
        // As the server does: what is not text is a line that is refused.
        let line = std::str::from_utf8(line).unwrap_or("not text");
        if let Err(error) = request.line(line) {
            check_error(&error, line);
            return;
        }
    }
    let update = request.finish();
    let text = written(&update);
    let mut request = SetRequest::default();
    for line in text.lines() {
        assert_eq!(request.line(line), Ok(()), "{line}");
    }
    let again = request.finish();
    assert_eq!(written(&again), text);
    assert_eq!(format!("{again:?}"), format!("{update:?}"));
}

/// Whatever stands behind the `=` may be a secret, and what stands before it too where it is no word.
fn check_error(error: &ParseError, line: &str) {
    let key = line.split('=').next().unwrap_or_default();
    match error {
        ParseError::UnknownKey(said) if said != "(not a word)" => {
            assert!(said == key && said.len() <= 40, "{said}");
            assert!(said.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{said}");
        }
        ParseError::BadValue(said) => assert_eq!(*said, key),
        ParseError::NoEquals => assert!(!line.contains('=')),
        ParseError::UnknownKey(_) | ParseError::TooLong => {}
    }
}

/// The request that asks for this update.
fn written(update: &DeviceUpdate) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(key) = &update.private_key {
        line("private_key", &hex(key.bytes()));
    }
    if let Some(port) = update.listen_port {
        line("listen_port", &port);
    }
    if let Some(mark) = update.fwmark {
        line("fwmark", &mark);
    }
    if update.replace_peers {
        line("replace_peers", &true);
    }
    for peer in &update.peers {
        line("public_key", &hex(peer.public_key.as_bytes()));
        for (name, is_set) in [
            ("remove", peer.remove),
            ("update_only", peer.update_only),
            ("replace_allowed_ips", peer.replace_allowed_ips),
        ] {
            if is_set {
                line(name, &true);
            }
        }
        if let Some(psk) = &peer.preshared_key {
            line("preshared_key", &hex(psk.bytes()));
        }
        if let Some(endpoint) = &peer.endpoint {
            line("endpoint", endpoint);
        }
        if let Some(seconds) = peer.persistent_keepalive {
            line("persistent_keepalive_interval", &seconds);
        }
        for network in &peer.allowed_ips {
            line("allowed_ip", network);
        }
    }
    text
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
