//! Paths that delay, lose and rewrite datagrams: the device beside `wireguard-go`, in each role and over the same path.
//!
//! ```text
//!        server ── switch ── relay ── switch ── client        pings: client ► server ► client
//!      [device]      (a namespace each)         [device]
//! ```
//!
//! The relay is a program of the tests, so that no kernel module is needed. What each case decides is tested on virtual time too
//! (`src/engine/tests`), against a model of wireguard-go; here it is wireguard-go itself, the kernel, and the machine's clock.
//!
//! They take three minutes, so `cargo test` leaves them out and `make nightly ONLY=bad_paths` runs them. Almost all of it is
//! waiting: they are to run all at once.
#![expect(clippy::unwrap_used, reason = "a panic in a test shows its position")]

mod comparison;
mod handshakes;
#[expect(dead_code, reason = "made for the tests in `device/`; this one uses a part")]
#[path = "../device/lab.rs"]
mod lab;
mod narrow;
mod network;
#[allow(dead_code, reason = "as above")]
#[path = "../device/patience.rs"]
mod patience;
mod pings;
#[expect(dead_code, reason = "as above")]
#[path = "../device/program.rs"]
mod program;
#[expect(dead_code, reason = "as above")]
#[path = "../device/relay.rs"]
mod relay;
mod roaming;
#[expect(dead_code, reason = "as above")]
#[path = "../device/tap.rs"]
mod tap;
