//! A source that invents peers by the hundred: what that costs, and which peers it keeps waiting.

use std::time::Duration;

use mesh_core::{registry::Registry, status::VerdictState};

use crate::{
    cluster::{Cluster, key, registration, token},
    world::{OWN, World},
};

/// Proofs asked for at once.
const BATCH: usize = 64;

#[test]
fn many_warnings_of_one_kind_become_one() {
    let mut world = World::mesh(&[2]);
    world.faults.lie = Some(|registry| invent(registry, 200, 208));
    world.hint();
    let of_peers = |world: &World| world.status().warnings.into_iter().map(|warning| warning.peer).collect::<Vec<_>>();
    assert_eq!(of_peers(&world), (200..208).map(|id| Some(token(id))).collect::<Vec<_>>(), "up to 8 by name");

    world.faults.lie = Some(|registry| invent(registry, 200, 250));
    world.hint();
    let warnings = world.status().warnings;
    assert_eq!(of_peers(&world), [None]);
    assert_eq!(warnings[0].code, "W401");
    assert!(warnings[0].message.starts_with("50 peers; the first: the registration of token 200 "), "{warnings:?}");
    assert_eq!(world.status().verdict.state, VerdictState::Degraded);
    let since = warnings[0].since.clone();

    world.faults.lie = Some(|registry| invent(registry, 200, 240));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.status().warnings[0].since, since, "one warning that goes on");
    world.faults.lie = None;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.status().warnings, []);
}

#[test]
fn invented_records_are_not_kept_on_disk() {
    let mut world = World::mesh(&[2]);
    world.faults.lie = Some(|registry| invent(registry, 200, 250));
    world.join(3);
    world.hint();
    let cached = world.disk.as_ref().unwrap();
    let kept: Vec<_> = cached.registry.peers.iter().map(|peer| peer.token).collect();
    assert_eq!(kept, [token(OWN), token(2), token(3)]);
    world.faults.rpc_down = true;
    world.restart();
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
}

#[test]
fn no_peer_waits_behind_invented_peers_more_than_once() {
    let mut world = World::mesh(&[2]);
    world.proofs_asked.clear();
    // Slow enough that the first ones could be asked for again before the last one's turn.
    world.faults.proofs_down = true;
    world.faults.proofs_take = Duration::from_secs(3);
    world.faults.lie = Some(|registry| invent(registry, 20, 199));
    world.join(199);
    world.hint();
    let turn = world.proofs_asked.iter().position(|asked| *asked == token(199)).unwrap();
    assert_eq!(turn, 179, "after each of the others once");

    world.faults.proofs_down = false;
    world.pass(Duration::from_secs(60));
    assert!(world.keys_on_device().contains(&key(199)));
}

#[test]
fn the_own_proof_does_not_wait_its_turn() {
    let mut world = World::new();
    world.contract.register(registration(OWN));
    world.faults.proofs_down = true;
    world.faults.proofs_take = Duration::from_secs(3);
    world.faults.lie = Some(|registry| invent(registry, 20, 240));
    world.run_until_idle();
    assert_eq!(world.proofs_asked[0], token(OWN));
    assert_eq!(world.proofs_asked[BATCH], token(83), "not due again so soon: the others go on where they stopped");
    assert_eq!(world.proofs_asked[2 * BATCH], token(OWN), "as soon as it is due");
    assert_eq!(world.proofs_asked[2 * BATCH + 1], token(83 + 64));
}

/// Adds these tokens, as a foreign KMS would vouch for them.
fn invent(registry: &mut Registry, first: u32, end: u32) {
    let invented = (first..end).map(|id| Cluster::foreign().record(&registration(id), registry.block.number));
    registry.peers.extend(invented);
    registry.peers.sort_by_key(|peer| peer.token);
}
