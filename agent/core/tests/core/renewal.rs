//! Peers whose registration moves to another block, by a new one or by a reorg, and who are the same all the while.

use std::time::Duration;

use mesh_core::{
    agent::Policy,
    registration::{EndpointUpdate, Registration},
    status::{PeerState, VerdictState},
};

use crate::{
    cluster::{endpoint, key, registration, token},
    world::{World, policy},
};

#[test]
fn a_peer_that_registers_again_is_proved_again() {
    let mut world = World::mesh(&[2, 3]);
    let again = Registration { key_epoch: 2, endpoint: Some(endpoint(50)), ..registration(2) };
    assert!(world.contract.register(again));
    world.hint();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "{:?}", world.status().warnings);
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
}

/// What brought a revoked peer back: its old record and proof, with a key epoch above the one that every node remembers.
#[test]
fn a_registration_is_not_believed_for_a_later_key_epoch() {
    for after_restart in [false, true] {
        let mut world = World::mesh(&[2, 3]);
        world.faults.lie = Some(|registry| {
            let dressed_up = registry.peers.iter_mut().find(|peer| peer.token == token(2)).unwrap();
            (dressed_up.key_epoch, dressed_up.endpoint_epoch) = (9, 9);
        });
        if after_restart {
            world.restart();
        }
        world.hint();
        world.pass(Duration::from_secs(60));
        assert_eq!(world.keys_on_device(), [key(3)].into(), "after a restart: {after_restart}");
        let refused = &world.status().warnings;
        assert!(refused.iter().any(|warning| warning.message.contains("differ in key epoch")), "{refused:?}");
    }
}

#[test]
fn an_endpoint_update_needs_no_other_proof() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.proofs_down = true;
    let update = EndpointUpdate {
        token: token(2),
        key_epoch: 1,
        endpoint_epoch: 1,
        endpoint: Some(endpoint(50)),
        gateway: None,
        deadline: 0,
    };
    assert!(world.contract.update_endpoint(update));
    world.hint();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "{:?}", world.status().warnings);
    world.restart();
    world.run_until_idle();
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
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2)].into());
    world.take_changes();

    assert!(world.contract.register(Registration { key_epoch: 2, ..registration(2) }));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2)].into(), "registered again just now, and waits no more");
    world.take_changes();
    world.join(3);
    world.hint();
    assert_eq!(world.take_changes(), [""; 0], "a newcomer waits");
    // The endpoint falls behind, to a height at which no registration has two blocks on top.
    world.faults.lie = Some(|registry| registry.block.number = 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.take_changes(), [""; 0]);
    world.faults.lie = None;
    world.contract.mine();
    world.contract.mine();
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());

    // A peer that left is new when it comes back, and so is a peer with another key.
    world.contract.leave(token(2), |_| {});
    world.hint();
    world.join(2);
    assert!(world.contract.register(Registration { key_epoch: 2, wireguard_key: key(103), ..registration(3) }));
    world.hint();
    assert_eq!(world.keys_on_device(), [].into());
    assert!(world.status().peers.iter().all(|peer| peer.state == PeerState::Down || peer.state == PeerState::Removing));
}
