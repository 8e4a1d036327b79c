//! Whole nodes and the world around them, without a clock: one seed decides a run, and a run that fails can be repeated.
//!
//! ```text
//!   seed ─► Scenario: nodes, network, endpoints, and what happens when
//!              │
//!              ▼
//!   World: one queue of events, one clock ── every node: agent, paths, device
//!              │                          └─ chain, RPC endpoints, NATs, links, gateway, operators
//!              ▼
//!   checks: what must hold after every step ─► Violation ─► shrink: the same failure with less happening
//! ```
//!
//! The agent, the paths and the device are the product's own machines, and messages are really sealed: a datagram that is altered,
//! recorded or late is judged by the receiver's device. Modelled are the shell that does what they ask for, and the world.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "where one fault is looked for, the others do not matter, nor will new ones"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a simulation that cannot go on panics, and the panic is reported with its seed"
)]

mod chain;
mod checks;
mod cluster;
mod contract;
mod device;
mod gateway;
mod nat;
mod network;
mod node;
mod packet;
mod queue;
mod rng;
mod rpc;
mod run;
mod scenario;
mod time;
mod world;

pub use checks::Violation;
pub use rpc::Lie;
pub use run::{Failure, Summary, run, run_seed, shrink};
pub use scenario::{Fault, GatewayEnd, PathFault, Profile, Scenario, Timed};
