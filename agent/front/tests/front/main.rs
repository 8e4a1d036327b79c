//! Fronts and dialers of several nodes on loopback, in one process, and callers that are none of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod gateway;
mod world;

mod attackers;
mod members;
mod traffic;
