//! Peers whose registration moves to another block, by a new one or by a reorg, and who are the same all the while.

use std::time::Duration;

use mesh_core::{
    agent::Policy,
    registration::Registration,
    status::{PeerState, VerdictState},
};

use crate::{
    cluster::{endpoint, key, registration, token},
    world::{World, policy},
};

#[test]
fn a_peer_that_registers_again_with_its_key_stays() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.proofs_down = true;
    let again = Registration { key_epoch: 2, endpoint: Some(endpoint(50)), ..registration(2) };
    assert!(world.contract.register(again));
    world.hint();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.take_changes(), [""; 0]);
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "{:?}", world.status().warnings);
    world.restart();
    world.settle();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into(), "nor is its proof needed after a restart");
}

#[test]
fn a_peer_with_another_key_needs_another_proof() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.proofs_down = true;
    assert!(world.contract.register(Registration { key_epoch: 2, wireguard_key: key(102), ..registration(2) }));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(3)].into());
}

#[test]
fn confirmations_delay_additions_and_nothing_else() {
    let mut world = World::mesh(&[2]);
    world.restart_with(Policy { confirmations: 2, ..policy() });
    world.contract.mine();
    world.contract.mine();
    world.settle();
    assert_eq!(world.keys_on_device(), [key(2)].into());
    world.take_changes();

    assert!(world.contract.register(Registration { key_epoch: 2, ..registration(2) }));
    world.hint();
    assert_eq!(world.take_changes(), [""; 0], "registered again just now");
    world.join(3);
    world.hint();
    assert_eq!(world.take_changes(), [""; 0], "a newcomer waits");
    // The endpoint falls behind, to a height at which nobody has two blocks on top.
    world.faults.lie = Some(|registry| registry.block.number = 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.take_changes(), [""; 0]);
    world.faults.lie = None;
    world.contract.mine();
    world.contract.mine();
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());

    // Whoever left is a newcomer when they come back, and so is whoever takes another key.
    world.contract.leave(token(2), |_| {});
    world.hint();
    world.join(2);
    assert!(world.contract.register(Registration { key_epoch: 2, wireguard_key: key(103), ..registration(3) }));
    world.hint();
    assert_eq!(world.keys_on_device(), [].into());
    assert!(world.status().peers.iter().all(|peer| peer.state == PeerState::Down || peer.state == PeerState::Removing));
}
