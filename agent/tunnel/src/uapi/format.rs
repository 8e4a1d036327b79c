//! Writing the answer to `get=1`. It holds the private key and the preshared keys, as the protocol requires: the socket is for root
//! alone.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use crate::device::Shared;
use crate::table::Member;

/// Bytes for the longest lines: with enough room, the text is not moved as it grows, which would leave a copy of the keys.
const DEVICE_LEN: usize = 256;
const PEER_LEN: usize = 512;
const ALLOWED_IP_LEN: usize = 64;

/// The device's configuration and state at `now`, ending in `errno=0` and the empty line.
pub(crate) fn get(shared: &Shared, now: Instant) -> Zeroizing<String> {
    let table = shared.table();
    let len: usize = table.members().map(|member| PEER_LEN + ALLOWED_IP_LEN * member.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(DEVICE_LEN + len));
    if let Some(identity) = &table.identity {
        hex_line(&mut text, "private_key", identity.private().bytes());
    }
    line(&mut text, format_args!("listen_port={}", shared.sockets().port()));
    if table.fwmark != 0 {
        line(&mut text, format_args!("fwmark={}", table.fwmark));
    }
    for member in table.members() {
        peer(&mut text, member, now);
    }
    line(&mut text, format_args!("errno=0\n"));
    text
}

fn peer(text: &mut String, member: &Member, now: Instant) {
    let view = member.peer.view(now);
    hex_line(text, "public_key", member.peer.key().as_bytes());
    match &view.psk {
        Some(psk) => hex_line(text, "preshared_key", psk.bytes()),
        None => hex_line(text, "preshared_key", &[0; 32]),
    }
    line(text, format_args!("protocol_version=1"));
    if let Some(endpoint) = view.endpoint {
        line(text, format_args!("endpoint={endpoint}"));
    }
    let handshake = view.last_handshake.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let handshake = handshake.unwrap_or(Duration::ZERO);
    line(text, format_args!("last_handshake_time_sec={}", handshake.as_secs()));
    line(text, format_args!("last_handshake_time_nsec={}", handshake.subsec_nanos()));
    line(text, format_args!("tx_bytes={}", view.tx_bytes));
    line(text, format_args!("rx_bytes={}", view.rx_bytes));
    line(text, format_args!("persistent_keepalive_interval={}", view.keepalive));
    for network in &member.allowed_ips {
        line(text, format_args!("allowed_ip={network}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

fn hex_line(text: &mut String, key: &str, bytes: &[u8; 32]) {
    text.push_str(key);
    text.push('=');
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}
