//! What this node has seen to be over is not undone by one RPC endpoint, and is by two.

use std::time::Duration;

use mesh_core::{registry::Registry, status::Severity};

use crate::{
    cluster::{Cluster, key, registration, token},
    world::World,
};

/// The block of node 3's registration in [`World::mesh`].
const JOINED: u64 = 6;

/// Node 3's old registration is listed again, in a later state.
fn bring_back(registry: &mut Registry) {
    registry.epoch += 5;
    registry.peers.retain(|record| record.token != token(3));
    registry.peers.push(Cluster::new().record(&registration(3), JOINED));
}

fn has_it(world: &World) -> bool {
    world.keys_on_device().contains(&key(3))
}

#[test]
fn who_was_revoked_comes_back_by_two_sources_alone() {
    let mut world = World::mesh(&[2, 3]);
    assert!(has_it(&world));
    world.contract.revoke(token(3));
    world.hint();
    assert!(!has_it(&world));
    world.faults.lie = Some(bring_back);
    world.pass(Duration::from_secs(60));
    assert!(!has_it(&world), "its proof is as good as ever, and it left");
    let status = world.status();
    let warning = status.warnings.iter().find(|warning| warning.code == "W407").unwrap();
    assert_eq!((warning.severity, warning.peer), (Severity::Critical, Some(token(3))));
    assert_eq!(world.keys_on_device(), [key(2)].into(), "nothing else changes");

    world.restart();
    world.pass(Duration::from_secs(60));
    assert!(!has_it(&world), "the disk knew it");

    // As after a reorg that took the leaving back.
    world.sources = 2;
    world.hint();
    assert!(has_it(&world) && world.status().warnings.iter().all(|warning| warning.code != "W407"));
    world.sources = 1;
    world.hint();
    assert!(has_it(&world), "and that is what this node knows now");
}

#[test]
fn who_left_while_this_node_was_down_does_not_come_back() {
    let mut world = World::mesh(&[2, 3]);
    world.contract.revoke(token(3));
    world.contract.mine();
    world.restart();
    world.run_until_idle();
    assert!(!has_it(&world));
    world.faults.lie = Some(bring_back);
    world.pass(Duration::from_secs(60));
    assert!(!has_it(&world));
}

#[test]
fn a_registration_that_was_replaced_does_not_come_back() {
    let mut world = World::mesh(&[2, 3]);
    let newer = mesh_core::registration::Registration { key_epoch: 2, wireguard_key: key(30), ..registration(3) };
    assert!(world.contract.register(newer));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(30)].into());
    world.faults.lie = Some(bring_back);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.keys_on_device(), [key(2)].into(), "a holder of the old key gets nothing");
    world.faults.lie = None;
    world.pass(Duration::from_secs(60));
    assert_eq!(world.keys_on_device(), [key(2), key(30)].into());
}

#[test]
fn a_node_that_registers_again_is_back_at_once() {
    let mut world = World::mesh(&[2, 3]);
    world.contract.revoke(token(3));
    world.hint();
    world.contract.reinstate(token(3));
    world.join(3);
    world.hint();
    assert!(has_it(&world));
}

#[test]
fn an_endpoint_that_lags_or_hides_a_peer_has_it_leave_for_as_long_as_it_does() {
    let older: fn(&mut Registry) = |registry| {
        registry.epoch -= 1;
        registry.block.number -= 1;
        registry.peers.retain(|record| record.token != token(3));
    };
    let hidden: fn(&mut Registry) = |registry| registry.peers.retain(|record| record.token != token(3));
    for lie in [older, hidden] {
        let mut world = World::mesh(&[2, 3]);
        world.faults.lie = Some(lie);
        world.contract.mine();
        world.pass(Duration::from_secs(60));
        assert!(!has_it(&world));
        world.faults.lie = None;
        world.contract.mine();
        world.pass(Duration::from_secs(60));
        assert!(has_it(&world));
    }
}
