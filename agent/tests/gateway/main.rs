//! Streams through the simulated gateway, all in one process on loopback: the transport's real TLS, TCP and timers, and a device
//! that stands in for WireGuard.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../chain/tests/chain/clock.rs"]
mod clock;
mod device;
mod world;

mod certificate;
mod faults;
mod hostile;
mod redial;
mod routes;
