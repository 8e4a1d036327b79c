//! What a device says of itself on its UAPI socket: as `wg show`, without starting a program for every look.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use mesh_core::id::WireguardKey;

use testkit::uninterrupted;

/// Public keys of its peers; `None` where no device answers.
pub(crate) fn peers(socket: &Path) -> Result<Option<Vec<WireguardKey>>> {
    let Some(answer) = get(socket)? else { return Ok(None) };
    answer.lines().filter_map(|line| line.strip_prefix("public_key=")).map(key).collect::<Result<_>>().map(Some)
}

/// When the newest session with any peer began; `None` where there is no session, or no device.
pub(crate) fn latest_handshake(socket: &Path) -> Result<Option<SystemTime>> {
    let answer = get(socket)?.unwrap_or_default();
    let (mut newest, mut seconds) = (Duration::ZERO, 0);
    for line in answer.lines() {
        if let Some(value) = line.strip_prefix("last_handshake_time_sec=") {
            seconds = value.parse()?;
        } else if let Some(value) = line.strip_prefix("last_handshake_time_nsec=") {
            newest = newest.max(Duration::new(seconds, value.parse()?));
        }
    }
    Ok((newest > Duration::ZERO).then(|| UNIX_EPOCH + newest))
}

/// What the device says of itself.
fn get(socket: &Path) -> Result<Option<String>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        // What a killed process leaves, or nothing at all.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("connect to {}", socket.display())),
    };
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"get=1\n\n").with_context(|| format!("ask {}", socket.display()))?;
    // One answer, which ends with an empty line; the connection may stay.
    let mut answer = Vec::new();
    let mut chunk = [0; 65536];
    while !answer.ends_with(b"\n\n") {
        let read = uninterrupted(|| stream.read(&mut chunk));
        let length = read.with_context(|| format!("read the answer of {}", socket.display()))?;
        ensure!(length > 0, "{} ended in the middle of an answer", socket.display());
        answer.extend_from_slice(&chunk[..length]);
    }
    let answer = String::from_utf8(answer).context("an answer that is no text")?;
    ensure!(answer.ends_with("errno=0\n\n"), "{} answered with an error", socket.display());
    Ok(Some(answer))
}

fn key(hex: &str) -> Result<WireguardKey> {
    let bytes = hex::decode(hex).with_context(|| format!("`{hex}` is no key"))?;
    Ok(WireguardKey(bytes.try_into().ok().with_context(|| format!("`{hex}` is no key"))?))
}
