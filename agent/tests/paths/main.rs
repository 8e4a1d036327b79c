//! The driver of the paths with real streams through the simulated gateway, all in one process on loopback, and devices in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../chain/tests/chain/clock.rs"]
mod clock;
mod device;
mod world;

mod devices;
mod hostile;
mod punching;
mod scale;
mod switching;
