//! Requests to the configuration socket.

use std::fmt::Write as _;

use mesh_tunnel::{DeviceUpdate, UapiError};

/// The lines of a `set=1` request. The update can be written as a request that is read as the same update, and errors show no key.
pub fn uapi(input: &[u8]) {
    let mut last = "";
    // As the server does: a line that is not text is refused.
    let lines = input.split(|byte| *byte == b'\n').map(|line| std::str::from_utf8(line).unwrap_or("not text"));
    let update = match DeviceUpdate::from_uapi(lines.inspect(|line| last = line)) {
        Ok(update) => update,
        Err(error) => return check_error(&error, last),
    };
    let text = written(&update);
    let again = match DeviceUpdate::from_uapi(text.lines()) {
        Ok(again) => again,
        Err(error) => panic!("{error}: {text}"),
    };
    assert_eq!(written(&again), text);
    assert_eq!(format!("{again:?}"), format!("{update:?}"));
}

/// The text behind the `=` may be a secret, and so may the text before it where it is not a word.
fn check_error(error: &UapiError, line: &str) {
    let key = line.split('=').next().unwrap_or_default();
    match error {
        UapiError::UnknownKey(said) if said != "(not a word)" => {
            assert!(said == key && said.len() <= 40, "{said}");
            assert!(said.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{said}");
        }
        UapiError::BadValue(said) => assert_eq!(*said, key),
        UapiError::NoEquals => assert!(!line.contains('=')),
        UapiError::UnknownKey(_) | UapiError::TooLong => {}
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
        for network in &peer.removed_allowed_ips {
            line("allowed_ip", &format_args!("-{network}"));
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
