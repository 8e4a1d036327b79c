//! The shell with real TLS over pipes instead of TCP, through a gateway in memory, on a clock that runs ahead when nothing is left to
//! do; and devices that hide nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod device;
mod world;

mod faults;
mod hostile;
mod replacing;
mod routes;
