//! What the agent says about itself.

use std::{num::NonZeroU8, time::Duration};

use mesh_core::{
    agent::{Adjustments, Input, NotReady, OnExpiry, Policy},
    freshness::Deadlines,
    observed::UserspaceDevice,
    status::{
        DroppedPackets, MembershipState, NodeKind, Offloads, PathKind, PeerState, Reason, SCHEMA, Severity, Status,
        VerdictState,
    },
};

use crate::{
    cluster::{key, token},
    contract::Contract,
    world::{World, policy},
};

#[test]
fn names_are_those_in_json() {
    let json = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    for kind in [PathKind::Direct, PathKind::Gateway] {
        assert_eq!(kind.name(), json(serde_json::to_value(kind).unwrap()));
    }
    for kind in [NodeKind::Wireguard, NodeKind::Tls] {
        assert_eq!(kind.name(), json(serde_json::to_value(kind).unwrap()));
    }
    for state in [
        PeerState::Up,
        PeerState::Idle,
        PeerState::Suspect,
        PeerState::Connecting,
        PeerState::Down,
        PeerState::Removing,
    ] {
        assert_eq!(state.name(), json(serde_json::to_value(state).unwrap()));
    }
}

#[test]
fn a_working_mesh_is_shown_in_full() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(5));
    let status = world.status();
    assert_eq!((status.schema.as_str(), status.verdict.state, status.verdict.exit_code), (SCHEMA, VerdictState::Ok, 0));
    assert_eq!(status.generated_at, "2023-11-14T22:13:25.000Z");
    assert_eq!((status.agent.uptime_s, status.agent.listen_port, status.agent.mtu), (5, Some(51821), Some(1420)));
    assert_eq!((status.own.token_id, status.own.name.as_deref()), (Some(token(1)), Some("node-1")));
    assert_eq!((status.own.address, status.own.key_epoch), (Some([10, 0, 1, 1].into()), Some(1)));
    assert_eq!(
        (status.registry.counts.active, status.registry.counts.configured, status.registry.counts.on_device),
        (2, 2, 2)
    );
    assert!(status.registry.in_sync && status.registry.freshness.fresh);
    assert_eq!(status.registry.freshness.deadline.as_deref(), Some("2023-11-14T23:13:20.000Z"));
    assert_eq!((status.summary.peers, status.summary.up, status.summary.direct, status.summary.down), (2, 2, 2, 0));
    assert_eq!(status.summary.rx_bytes, 296);
    let peer = &status.peers[0];
    assert_eq!((peer.name.as_str(), peer.state, peer.path), ("pg-2", PeerState::Up, Some(PathKind::Direct)));
    assert_eq!((peer.endpoint.as_deref(), peer.preshared_key), (Some("192.0.2.2:51821"), true));
    assert_eq!((peer.handshake_age_s, peer.rtt_ms), (Some(5.0), None));
    assert_eq!(status.warnings, []);
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
}

#[test]
fn a_device_in_this_process_says_what_it_leaves_to_the_kernel() {
    let mut world = World::mesh(&[2]);
    let of_the_kernel = world.status().agent;
    assert_eq!((of_the_kernel.threads, of_the_kernel.offloads, of_the_kernel.dropped_packets), (None, None, None));
    assert_eq!(of_the_kernel.refused_offloads().count(), 0);

    let offloads = Offloads { tun_tso: true, tun_uso: false, udp_gso: false, udp_gro: true, batch_aead: false };
    let dropped = DroppedPackets { no_peer: 7, ..DroppedPackets::default() };
    world.machine.device.as_mut().unwrap().userspace = Some(UserspaceDevice {
        threads: NonZeroU8::MIN,
        offloads,
        offloads_allowed: Offloads { udp_gso: true, ..offloads },
        dropped,
    });
    world.pass(Duration::from_secs(1));
    let status = world.status();
    assert_eq!((status.agent.threads, status.agent.offloads), (Some(NonZeroU8::MIN), Some(offloads)));
    assert_eq!(status.agent.dropped_packets, Some(dropped));
    // What the operator did without was not refused.
    assert_eq!(status.agent.refused_offloads().collect::<Vec<_>>(), ["udp_gso"]);
    assert_eq!((status.verdict.state, status.warnings), (VerdictState::Ok, vec![]), "it works all the same");
}

/// Versions before this one reported less about their device.
#[test]
fn the_status_of_an_older_agent_can_be_read() {
    let mut value = serde_json::to_value(World::mesh(&[2]).status()).unwrap();
    let agent = value["agent"].as_object_mut().unwrap();
    for field in ["threads", "offloads", "offloads_allowed", "dropped_packets"] {
        assert!(agent.remove(field).is_some(), "{field}");
    }
    let status: Status = serde_json::from_value(value).unwrap();
    assert_eq!((status.agent.mtu, status.agent.offloads), (Some(1420), None));
}

#[test]
fn before_the_first_read_nothing_is_known() {
    let world = World::with(Contract::new(), policy());
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Down, false));
    assert_eq!(status.own.membership, MembershipState::Unknown);
    assert_eq!((status.registry.chain_id, status.registry.epoch, status.registry.block), (None, None, None));
    assert_eq!((status.own.token_id, status.own.address, status.agent.mtu), (None, None, None));
}

#[test]
fn a_silent_peer_degrades_and_all_silent_peers_are_down() {
    let mut world = World::mesh(&[2, 3]);
    silence(&mut world, 0);
    world.pass(Duration::from_secs(2));
    let status = world.status();
    assert_eq!((status.peers[0].state, status.peers[0].path_reason), (PeerState::Down, Some(Reason::DirectUdpSilent)));
    assert_eq!((status.peers[0].flaps_1h, status.peers[0].path), (1, None));
    assert_eq!(status.verdict.state, VerdictState::Ok, "not for a moment's silence");
    world.pass(Duration::from_secs(12));
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Degraded, true));
    let warning = status.warnings.first().unwrap();
    assert_eq!((warning.code.as_str(), warning.peer, warning.severity), ("W201", Some(token(2)), Severity::Warning));

    silence(&mut world, 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.status().verdict.state, VerdictState::Down);
}

#[test]
fn newcomers_are_seen_within_moments_of_their_first_packet() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(60));
    world.join(3);
    world.hint();
    hear(&mut world, 1, None);
    world.pass(Duration::from_millis(200));
    let state = |world: &World| world.status().peers[1].state;
    assert_eq!(state(&world), PeerState::Connecting);
    world.pass(Duration::from_secs(10));
    assert_eq!(state(&world), PeerState::Connecting);
    hear(&mut world, 1, Some(Duration::ZERO));
    world.pass(Duration::from_millis(200));
    assert_eq!(state(&world), PeerState::Up);

    // Once all is quiet, and for one who never comes, a look each second does.
    hear(&mut world, 1, None);
    world.pass(Duration::from_secs(30));
    let looks = world.commands["observe"];
    world.pass(Duration::from_secs(60));
    assert_eq!(world.commands["observe"], looks + 60);
}

#[test]
fn a_warning_keeps_its_beginning_and_ends() {
    let mut world = World::mesh(&[2]);
    world.faults.rpc_down = true;
    world.pass(Duration::from_secs(20));
    let began = world.status().warnings[0].since.clone();
    world.pass(Duration::from_secs(9));
    assert_eq!(world.status().warnings[0].since, began);
    world.faults.rpc_down = false;
    world.pass(Duration::from_secs(11));
    assert_eq!(world.status().warnings, []);
}

#[test]
fn other_apps_have_no_preshared_key_and_that_is_said() {
    let mut world = World::mesh(&[2]);
    let record = world.status();
    assert!(record.warnings.is_empty());
    world.machine.device.as_mut().unwrap().peers[0].has_preshared_key = false;
    world.pass(Duration::from_secs(1));
    assert!(world.machine.device.as_ref().unwrap().peers[0].has_preshared_key, "and it is set where it belongs");
}

#[test]
fn what_the_operator_decides_again_takes_effect_at_once() {
    let mut world = World::mesh(&[2]);
    let now = policy().adjustments();
    let adjust = |world: &mut World, adjustments| world.feed(Input::Adjusted(Box::new(adjustments)));
    assert_eq!(world.status().peers[0].name, "pg-2");
    adjust(&mut world, Adjustments { names: [(token(2), "redis-2".to_owned())].into(), ..now });
    assert_eq!((world.status().peers[0].name.as_str(), world.take_changes()), ("redis-2", vec![]));

    adjust(&mut world, Adjustments { keepalive: 40, ..now.clone() });
    assert_eq!(world.take_changes().len(), 1);
    assert_eq!(world.machine.device.as_ref().unwrap().peers[0].persistent_keepalive, 40);

    let deadline = |world: &World| world.status().registry.freshness.deadline;
    assert_eq!(deadline(&world).as_deref(), Some("2023-11-14T23:13:20.000Z"));
    adjust(
        &mut world,
        Adjustments { deadlines: Deadlines { registry: Duration::from_secs(600), ..now.deadlines }, ..now.clone() },
    );
    assert_eq!(deadline(&world).as_deref(), Some("2023-11-14T22:23:20.000Z"));
    adjust(&mut world, Adjustments { on_expiry: OnExpiry::Static, ..now });
    assert_eq!(deadline(&world), None);
}

#[test]
fn membership_has_one_name() {
    for state in [
        MembershipState::Unknown,
        MembershipState::NoToken,
        MembershipState::Ambiguous,
        MembershipState::Revoked,
        MembershipState::Registering,
        MembershipState::Active,
        MembershipState::Fenced,
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.to_string());
    }
}

#[test]
fn counters_count_what_was_done() {
    let mut world = World::mesh(&[2, 3]);
    world.contract.revoke(token(3));
    world.hint();
    let counters = world.agent.counters();
    assert_eq!(counters.changes["add_peer"], 2);
    assert_eq!(counters.changes["remove_peer"], 1);
    assert_eq!(
        (counters.proofs_verified, counters.proofs_refused, counters.reads_failed),
        (3, 0, 0),
        "the own one is proved, too"
    );
    assert!(counters.apply_times.count() >= 2);
}

#[test]
fn changes_that_succeed_beside_a_failed_one_are_counted() {
    let mut world = World::mesh(&[2, 3]);
    world.faults.failing_change = Some("remove_peer");
    world.contract.revoke(token(3));
    world.join(4);
    world.hint();
    // The removal is tried before the proof of the newcomer is there, and again with it.
    world.pass(Duration::from_secs(1));
    let counters = world.agent.counters();
    assert_eq!((counters.changes["add_peer"], counters.changes_failed), (3, 2));
    assert!(!counters.changes.contains_key("remove_peer"), "{:?}", counters.changes);
    let warnings = world.status().warnings;
    let failed = warnings.iter().find(|warning| warning.code == "W501").unwrap();
    assert!(!failed.message.contains("hint") && failed.hint.as_deref() == Some("let it work"), "{failed:?}");
}

#[test]
fn a_machine_that_cannot_be_observed_is_not_shown_as_it_was() {
    let mut world = World::mesh(&[2]);
    world.faults.blind = true;
    world.pass(Duration::from_secs(2));
    assert_eq!(world.agent.readiness(world.now), Ok(()), "not for a moment's blindness");
    world.pass(Duration::from_secs(5));
    let status = world.status();
    assert!(matches!(world.agent.readiness(world.now), Err(NotReady::Blind(_))) && !status.verdict.ready);
    assert!(status.warnings.iter().any(|warning| warning.code == "W505"), "{:?}", status.warnings);
    let seen = |world: &World| world.status().peers[0].last_seen_s.unwrap();
    let before = seen(&world);
    world.pass(Duration::from_secs(40));
    assert!(seen(&world) >= before + 39.0, "ages go on: {before}, {}", seen(&world));
    assert_eq!(world.status().peers[0].state, PeerState::Down, "whether it is heard is not known");

    world.contract.revoke(token(2));
    world.hint();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.keys_on_device(), [].into(), "a revocation does not wait for better sight");
    world.faults.blind = false;
    world.pass(Duration::from_secs(31));
    assert_eq!((world.agent.readiness(world.now), world.status().warnings), (Ok(()), Vec::new()));
}

#[test]
fn a_full_disk_is_reported_and_the_mesh_goes_on() {
    let mut world = World::mesh(&[2]);
    world.faults.disk_full = true;
    world.join(3);
    world.hint();
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Degraded, true));
    assert!(status.warnings.iter().any(|warning| warning.code == "W504" && warning.hint.is_some()), "{status:?}");
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
    let saves = world.commands["save"];
    world.pass(Duration::from_secs(60));
    assert!((1..=3).contains(&(world.commands["save"] - saves)), "tried again, now and then");
    world.faults.disk_full = false;
    world.pass(Duration::from_secs(31));
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
    assert_eq!(world.disk.as_ref().unwrap().registry.peers.len(), 3);
}

/// The peer falls silent: nothing of it has been received for a while.
fn silence(world: &mut World, index: usize) {
    world.silent.insert(world.machine.device.as_ref().unwrap().peers[index].public_key);
}

/// When the last packet of a peer came, if one did.
fn hear(world: &mut World, index: usize, age: Option<Duration>) {
    world.machine.device.as_mut().unwrap().peers[index].received_age = age;
}

#[test]
fn a_single_source_is_worth_knowing() {
    let warned = |quorum| {
        let mut world = World::mesh(&[2]);
        world.restart_with(Policy { quorum, ..policy() });
        world.run_until_idle();
        let status = world.status();
        let warning = status.warnings.iter().find(|warning| warning.code == "W308").cloned();
        (status.verdict.state, warning.map(|warning| (warning.severity, warning.hint.unwrap())))
    };
    let (state, warning) = warned(1);
    let (severity, hint) = warning.unwrap();
    assert_eq!((state, severity), (VerdictState::Ok, Severity::Info));
    assert!(hint.contains("`--rpc-url` three times"), "{hint}");
    assert_eq!(warned(2), (VerdictState::Ok, None));
}
