//! The whole product in network namespaces: real chain, real contract, real agents, real packets.
//!
//! ```text
//!   hub: anvil, meshctl ── bridge ──┬── node 1: p2p-agent, applications
//!                                   ├── node 2: …
//!                                   └── node n
//! ```
//!
//! Needs root, and fails without. Every test has a world of its own; many run side by side because they mostly wait.
#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]

mod bad_members;
mod bad_starts;
mod joining;
mod leaving;
mod leftovers;
mod lying_rpc;
mod memory;
mod mesh_of_three;
mod outsider;
mod process;
mod reorg;
mod restart;
mod rpc_outage;
mod scene;
mod secrets;
mod sibling;
mod single_rpc;
mod soak;
mod starting;
mod stopping;
mod tls_mode;

use std::time::Duration;

/// For everything that is not measured: a busy machine may be slow, and an agent whose transaction nobody answers for, because the
/// machine stands still, tries again half a minute later.
const PATIENCE: Duration = Duration::from_secs(150);
/// A registration's block until the new node is reachable from all.
const JOIN_LIMIT: Duration = Duration::from_secs(3);
/// A leaver's block until nobody accepts its packets; and a restart until the mesh is whole.
const CUT_LIMIT: Duration = Duration::from_secs(2);
