//! Statuses for tests: a mesh with one broken path, a node that has just started, a fenced one.

use mesh_core::{
    id::TokenId,
    status::{Status, ToldRemoval},
};

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

/// What members told an agent whose RPC endpoints do not answer.
pub(crate) fn told_removal() -> ToldRemoval {
    let token = |id: u32| TokenId::new(id).unwrap();
    ToldRemoval { token: token(9), key_epoch: 1, told_by: [2, 3, 5].map(token).into(), epoch: 42, block: 1_000 }
}

fn parse(json: &str) -> Status {
    serde_json::from_str(json).unwrap()
}
