//! The gateway in one process with its clients and instances, on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../harness/mod.rs"]
mod harness;
mod world;

mod limits;
mod policy;
mod routing;
mod streams;
mod tls;
