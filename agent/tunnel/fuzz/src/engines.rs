//! The devices that targets drive, and their keys and addresses.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use mesh_tunnel::{Engine, EngineOptions, PrivateKey};
use zeroize::Zeroizing;

/// The port that is reserved for the device's owner.
pub(super) const TAP: u16 = 51823;

/// A device without key and peers.
pub(super) fn engine(seed: u64, mtu: u16, now: Instant) -> Engine {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Engine::new(EngineOptions { seed, tap: TAP, mtu }, now, wall)
}

/// The key that is made of this byte, which must not be 0.
pub(super) fn private(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new([byte; 32]))
}

/// The UDP port of the host of this number.
pub(super) fn address(host: u8) -> SocketAddr {
    ([192, 0, 2, host], 51820).into()
}
