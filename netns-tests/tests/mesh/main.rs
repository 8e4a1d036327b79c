//! The product meets the kernel: real chain, real contract, real agents, real packets, each in network namespaces.
//!
//! ```text
//!   hub: anvil, meshctl ── bridge ──┬── node 1: p2p-agent, applications
//!                                   ├── node 2: …
//!                                   └── node n
//! ```
//!
//! These are the namespace tests of `make test`: one for each thing that only a kernel can show, and none waits for more than 2 s.
//! Decisions are tested on virtual time (`agent/sim`), and what takes longer is in `tests/mesh_nightly` and the other targets here.
//! Needs root, and fails without. Every test has a world of its own; many run side by side because they mostly wait.
#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]

mod demo;
mod failover;
mod forming;
mod fronts;
mod guard;
mod guest_apis;
mod interop;
mod joining;
mod leaving;
mod netstack;
mod ports;
mod process;
mod restart;
mod tls_mode;

use std::time::Duration;

/// For everything that is not measured: a busy machine may be slow, and an agent tries a transaction again after half a minute if
/// it got no answer while the machine stalled.
const PATIENCE: Duration = Duration::from_secs(150);
/// From a registration's block until the new node is reachable from all.
const JOIN_LIMIT: Duration = Duration::from_secs(3);
/// From a leaver's block until no node accepts its packets; and from a restart until the mesh is whole.
const CUT_LIMIT: Duration = Duration::from_secs(2);
