//! The whole agent when sources fail or lie, and when the machine refuses.

use std::{sync::Arc, time::Duration};

use mesh_core::{
    agent::{Input, NotReady, OnExpiry, Policy},
    freshness::Deadlines,
    registry::Registry,
    status::{MembershipState, VerdictState},
};

use crate::{
    cluster::{Cluster, key, registration, token},
    contract::Contract,
    world::{OWN, World, policy},
};

#[test]
fn a_restart_needs_no_rpc() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.rpc_down = true;
    world.now.unix += Duration::from_secs(10);
    world.restart();
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into(), "at once, from disk");
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert_eq!(world.agent.readiness(world.now), Ok(()));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.agent.readiness(world.now), Err(NotReady::Stale), "the view keeps its age");
}

#[test]
fn what_is_on_disk_is_proved_again() {
    let mut world = World::mesh(&[2, 3]);
    let cached = world.disk.as_mut().unwrap();
    Arc::make_mut(cached.proofs.get_mut(&token(3)).unwrap()).node_signature[40] ^= 1;
    world.faults.rpc_down = true;
    world.faults.proofs_down = true;
    world.restart();
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2)].into());
}

#[test]
fn the_own_membership_is_proved_like_any_other() {
    let mut world = World::mesh(&[2]);
    Arc::make_mut(world.disk.as_mut().unwrap().proofs.get_mut(&token(OWN)).unwrap()).node_signature[40] ^= 1;
    world.faults.rpc_down = true;
    world.faults.proofs_down = true;
    world.restart();
    world.run_until_idle();
    assert!(!world.has_device());

    // An endpoint that gives this node the token, and so the address, of another node.
    let mut world = World::new();
    world.faults.lie = Some(|registry| {
        let own = Cluster::new().record(&registration(OWN), 1);
        registry.peers = vec![mesh_core::registry::PeerRecord { token: token(9), ..own }];
        registry.own_nodes[0].token = token(9);
    });
    world.run_until_idle();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.status().own.token_id, Some(token(9)));
    assert!(!world.has_device());
}

#[test]
fn a_peer_that_cannot_be_removed_is_shown() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.failing_change = Some("remove_peer");
    world.contract.revoke(token(3));
    world.hint();
    let status = world.status();
    let leaving = status.peers.iter().find(|peer| peer.token_id == token(3)).unwrap();
    assert_eq!(leaving.state, mesh_core::status::PeerState::Removing);
    assert!(!leaving.agreement.in_registry && !leaving.agreement.in_config && leaving.agreement.on_device);
    assert!(!status.registry.in_sync);
}

#[test]
fn an_old_view_on_disk_is_not_acted_on() {
    let mut world = World::mesh(&[2]);
    world.faults.rpc_down = true;
    world.now.unix += Duration::from_secs(3601);
    world.restart();
    world.run_until_idle();
    assert!(!world.has_device() && world.is_guarded());
    assert_eq!(world.status().verdict.state, VerdictState::Stale);
}

#[test]
fn traffic_does_not_notice_an_outage() {
    let mut world = World::mesh(&[2]);
    world.faults.rpc_down = true;
    let reads = world.commands["read"];
    world.pass(Duration::from_secs(60));
    assert_eq!(world.take_changes(), [""; 0]);
    assert!(world.commands["read"] - reads < 12, "failed reads back off: {}", world.commands["read"] - reads);
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Stale, false));
    assert!(status.registry.block.unwrap().age_s >= 50.0);
    assert!(status.warnings.iter().any(|warning| warning.code == "W301"));

    world.faults.rpc_down = false;
    world.join(3);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into(), "it catches up without a hint");
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
}

#[test]
fn hints_do_not_make_failing_reads_faster_than_four_a_second() {
    let mut world = World::mesh(&[2]);
    world.faults.rpc_down = true;
    let reads = world.commands["read"];
    for _ in 0..1000 {
        world.hint();
        world.pass(Duration::from_millis(10));
    }
    assert!(world.commands["read"] - reads <= 41, "{}", world.commands["read"] - reads);
}

#[test]
fn the_deadline_closes_or_leaves_as_the_operator_said() {
    for (on_expiry, open) in [(OnExpiry::FailClosed, false), (OnExpiry::Static, true)] {
        let mut world = World::mesh(&[2]);
        world.restart_with(Policy {
            on_expiry,
            deadlines: Deadlines { registry: Duration::from_secs(300), ..policy().deadlines },
            ..policy()
        });
        world.run_until_idle();
        world.faults.rpc_down = true;
        world.pass(Duration::from_secs(290));
        assert!(world.has_device());
        world.pass(Duration::from_secs(30));
        assert_eq!(world.has_device(), open, "{on_expiry:?}");
        assert!(world.is_guarded());
        assert_eq!(world.status().registry.freshness.deadline.is_some(), !open);
        world.faults.rpc_down = false;
        world.pass(Duration::from_secs(11));
        assert_eq!(world.keys_on_device(), [key(2)].into());
        assert_eq!(world.status().verdict.state, VerdictState::Ok);
    }
}

#[test]
fn an_invented_peer_never_reaches_the_device() {
    let lies: [fn(&mut Registry); 5] = [
        |registry| add(registry, |record| record.app_id = Cluster::new().app_id),
        |registry| add(registry, |record| record.kms_root = Cluster::foreign().record(&registration(200), 1).kms_root),
        |registry| registry.peers.last_mut().unwrap().wireguard_key = key(200),
        |registry| registry.peers.last_mut().unwrap().member_address = alloy_primitives::Address::ZERO,
        |registry| registry.peers.last_mut().unwrap().instance = crate::cluster::instance(200),
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let mut world = World::mesh(&[2, 3, 4]);
        world.invented.insert(key(200));
        world.faults.lie = Some(lie);
        world.pass(Duration::from_secs(100));
        let mut honest = world.keys_on_device();
        honest.remove(&key(4));
        assert_eq!(honest, [key(2), key(3)].into(), "lie {index}: the others stay");
        let warnings = world.status().warnings;
        assert!(warnings.iter().any(|warning| warning.code == "W401" || warning.code == "W402"), "{warnings:?}");
        // Once the endpoint tells the truth the peer is back.
        world.faults.lie = None;
        world.pass(Duration::from_secs(100));
        assert_eq!(world.keys_on_device(), [key(2), key(3), key(4)].into(), "lie {index}");
        assert_eq!(world.status().verdict.state, VerdictState::Ok, "lie {index}");
    }
}

#[test]
fn a_forged_proof_beside_the_true_one_hides_no_peer() {
    let mut world = World::mesh(&[2]);
    world.faults.forged_proofs_first = true;
    world.join(3);
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
}

#[test]
fn a_peer_that_cannot_be_proved_keeps_no_other_waiting() {
    let mut world = World::mesh(&[2]);
    world.faults.swapped_proofs.insert(token(3));
    world.join(3);
    world.join(4);
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(4)].into());
    assert_eq!(world.agent.readiness(world.now), Ok(()));
    let status = world.status();
    assert_eq!(status.verdict.state, VerdictState::Degraded);
    assert!(status.warnings.iter().any(|warning| warning.code == "W401" && warning.peer == Some(token(3))));
    let proofs = world.commands["proofs"];
    world.faults.swapped_proofs.clear();
    world.pass(Duration::from_secs(40));
    assert_eq!(world.keys_on_device(), [key(2), key(3), key(4)].into(), "asked again: the source was the liar");
    assert_eq!(world.commands["proofs"], proofs + 1);

    world.faults.proofs_down = true;
    world.join(5);
    world.contract.revoke(token(2));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(3), key(4)].into(), "removals need no proof");
    let proofs = world.commands["proofs"];
    world.pass(Duration::from_secs(120));
    assert!(world.commands["proofs"] - proofs < 12, "fetching backs off");
    world.faults.proofs_down = false;
    world.pass(Duration::from_secs(31));
    assert_eq!(world.keys_on_device(), [key(3), key(4), key(5)].into());
}

#[test]
fn most_of_a_mesh_may_leave_but_not_by_one_glitch() {
    let mut world = World::mesh(&[2, 3, 4]);
    world.agent.handle(Input::Hint, world.now);
    let read = world.agent.poll_command().unwrap();
    assert!(matches!(read, mesh_core::agent::Command::ReadRegistry { .. }));
    let mut glitch = world.contract.read(crate::cluster::instance(OWN), Some(token(OWN)));
    glitch.peers.truncate(1);
    world.agent.handle(Input::Registry(Box::new(glitch), mesh_core::agent::SourceReport::default()), world.now);
    assert!(world.status().warnings.iter().any(|warning| warning.code == "W304"));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.take_changes(), [""; 0], "the second read says otherwise");

    for id in [2, 3, 4] {
        world.contract.revoke(token(id));
    }
    world.hint();
    world.pass(Duration::from_millis(100));
    assert_eq!(world.take_changes().len(), 3, "a second read confirms, within moments");
}

#[test]
fn what_was_final_is_not_taken_back_by_an_old_view() {
    let mut world = World::mesh(&[2, 3, 4]);
    world.sources = 2;
    world.hint();
    world.contract.revoke(token(4));
    world.contract.finalize();
    world.hint();
    // The next read lets the floor rise above the revocation.
    world.contract.mine();
    world.hint();
    world.take_changes();
    world.faults.lie = Some(|registry| {
        registry.epoch -= 1;
        let back = Cluster::new().record(&registration(4), 8);
        registry.peers.push(back);
    });
    world.pass(Duration::from_secs(20));
    assert_eq!(world.take_changes(), [""; 0]);
    let status = world.status();
    assert!(status.warnings.iter().any(|warning| warning.code == "W306"), "{:?}", status.warnings);
    world.restart();
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into(), "nor after a restart");
}

#[test]
fn one_lie_about_a_huge_epoch_does_not_outlive_a_restart() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.lie = Some(|registry| {
        registry.epoch = u64::MAX;
        registry.finalized = Some(registry.block.number);
        registry.peers.iter_mut().for_each(|peer| peer.key_epoch = u32::MAX);
        registry.own_nodes.iter_mut().for_each(|node| node.key_epoch = u32::MAX);
    });
    world.pass(Duration::from_secs(30));
    world.faults.lie = None;
    world.pass(Duration::from_secs(30));
    let warnings = world.status().warnings;
    assert!(warnings.iter().any(|warning| warning.code == "W306"), "older than what this source said: {warnings:?}");
    world.restart();
    world.run_until_idle();
    world.join(4);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.keys_on_device(), [key(2), key(3), key(4)].into());
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "{:?}", world.status().warnings);
}

#[test]
fn two_sources_that_agree_end_the_lie_of_one_without_a_restart() {
    let mut world = World::mesh(&[2]);
    world.faults.lie = Some(|registry| {
        registry.epoch = u64::MAX;
        registry.finalized = Some(registry.block.number);
    });
    world.hint();
    world.faults.lie = None;
    world.sources = 2;
    world.join(3);
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
}

#[test]
fn peers_that_are_listed_but_no_longer_proved_count_as_gone() {
    let mut world = World::mesh(&[2, 3, 4]);
    world.agent.handle(Input::Hint, world.now);
    let Some(read) = world.agent.poll_command() else { panic!("no read") };
    assert!(matches!(read, mesh_core::agent::Command::ReadRegistry { .. }));
    let mut glitch = world.contract.read(crate::cluster::instance(OWN), Some(token(OWN)));
    for peer in glitch.peers.iter_mut().filter(|peer| peer.token != token(OWN)) {
        peer.member_address = alloy_primitives::Address::ZERO;
    }
    world.agent.handle(Input::Registry(Box::new(glitch), mesh_core::agent::SourceReport::default()), world.now);
    assert!(world.status().warnings.iter().any(|warning| warning.code == "W304"));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.take_changes(), [""; 0], "the second read says otherwise");
}

#[test]
fn a_change_that_fails_is_tried_again_and_holds_up_no_removal() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.failing_change = Some("add_peer");
    world.join(4);
    let applies = world.commands["apply"];
    world.hint();
    assert!(world.status().warnings.iter().any(|warning| warning.code == "W501"));
    assert!(matches!(world.agent.readiness(world.now), Err(NotReady::ChangeFailed(_))));
    world.pass(Duration::from_secs(60));
    assert!(world.commands["apply"] - applies < 10, "it backs off");
    world.contract.revoke(token(2));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(3)].into());
    world.faults.failing_change = None;
    world.pass(Duration::from_secs(31));
    assert_eq!(world.keys_on_device(), [key(3), key(4)].into());
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
}

#[test]
fn a_kept_view_of_another_contract_is_not_used() {
    let mut world = World::mesh(&[2]);
    world.disk.as_mut().unwrap().registry.domain.contract = alloy_primitives::Address::repeat_byte(1);
    world.faults.rpc_down = true;
    world.restart();
    world.run_until_idle();
    assert!(!world.has_device() && world.status().own.membership == MembershipState::Unknown);
}

#[test]
fn a_node_without_a_token_waits_quietly() {
    let mut world = World::with(Contract::new(), policy());
    world.run_until_idle();
    world.pass(Duration::from_secs(60));
    let status = world.status();
    assert_eq!((status.own.membership, status.verdict.state), (MembershipState::NoToken, VerdictState::Down));
    assert!(status.own.membership_hint.unwrap().starts_with("meshctl mint --instance 0101"));
    assert!(world.commands["read"] <= 8 && !world.commands.contains_key("offer"));
}

/// Adds a peer that a foreign KMS vouches for, in every detail right but for the root.
fn add(registry: &mut Registry, also: impl FnOnce(&mut mesh_core::registry::PeerRecord)) {
    let mut record = Cluster::foreign().record(&registration(200), registry.block.number);
    also(&mut record);
    registry.peers.push(record);
}
