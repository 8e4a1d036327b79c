//! A whole mesh on one machine, each part real and each in a network namespace of its own.
//!
//! ```text
//!   hub namespace: bridge 192.0.2.1, fd00:d57a::1         anvil (192.0.2.1:8545), meshctl, RPC proxies
//!        │ veth              │ veth             │ veth
//!   node 1: 192.0.2.11    node 2: 192.0.2.12   node 3 …   p2p-agent, its interface, its applications
//!        └─ unix socket ─────┴─ unix socket ────┴──────   dstack-simulator (one guest agent per node)
//! ```
//!
//! [`World`] makes it, breaks it and takes it away again. The demo (`make demo`) and the integration tests (`tests/mesh`,
//! `tests/two_paths`) use the same one. Nothing outside the namespaces is touched, names are unique, so that worlds live side by side, and
//! every child dies with the process that made it. What a killed process leaves, the next world takes away.

mod attacker;
mod binaries;
mod capture;
mod chain;
mod clear_text;
mod crowd;
mod cvm;
mod environment;
mod false_answers;
mod flow;
mod gateway;
mod http;
mod malicious_rpc;
mod netstack_agent;
mod node;
mod privileges;
mod router;
mod rpc_proxy;
mod simulator;
mod steps;
mod stun_server;
mod tls_agent;
mod traffic;
mod uapi;
mod world;
mod world_dir;

pub use attacker::{Attacker, INVENTED_TOKEN, Invented, OTHER_ROOT};
pub use binaries::Binaries;
pub use capture::Capture;
pub use chain::{Chain, OPERATOR};
pub use clear_text::ClearText;
pub use crowd::Absent;
pub use cvm::{Cvm, KMS_ROOT};
pub use environment::number;
pub use false_answers::FalseAnswers;
pub use flow::{Flow, Heartbeat, Transfer};
pub use gateway::Gateway;
pub use http::{Answer, ask, ask_socket};
pub use malicious_rpc::MaliciousRpc;
pub use netstack_agent::NetstackAgent;
pub use node::{AgentSettings, FRONT_PORT, Node, Stopped};
pub use privileges::has_only_capabilities;
pub use rpc_proxy::serve as serve_malicious_rpc;
pub use simulator::{Announcement, Instance, Simulator};
pub use steps::Steps;
pub use stun_server::serve as serve_stun;
pub use testkit::{
    Finished, Launch, Namespace, Process, Rng, Signal, interrupt, stall_clock, uninterrupted, wait_until,
};
pub use tls_agent::{DOMAIN as TLS_DOMAIN, TlsAgent, UNPRIVILEGED};
pub use traffic::{Flood, Stream, Traffic};
pub use world::{DirectFault, World};
