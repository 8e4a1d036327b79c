//! Statuses for tests: a mesh with one broken path, a node that has just started, a fenced one.

use mesh_core::status::Status;

/// Five nodes, one of them reached through the gateway, one RPC endpoint down. The schema's example.
pub(crate) fn degraded() -> Status {
    parse(include_str!("../tests/samples/degraded.json"))
}

/// An agent that has not read the contract yet.
pub(crate) fn starting() -> Status {
    parse(include_str!("../tests/samples/starting.json"))
}

/// An agent whose token was revoked.
pub(crate) fn fenced() -> Status {
    parse(include_str!("../tests/samples/fenced.json"))
}

fn parse(json: &str) -> Status {
    serde_json::from_str(json).unwrap()
}
