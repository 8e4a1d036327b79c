//! The whole agent on a scripted world: joining, leaving, restarting, stopping.

use std::time::Duration;

use alloy_primitives::U256;
use mesh_core::{
    agent::{Command, Input, Intent, NotReady, OwnEndpoint, Policy},
    diff::Change,
    registration::{EndpointUpdate, Registration},
    status::{MembershipState, Severity, VerdictState},
    wei::Wei,
};

use crate::{
    cluster::{OWNER, endpoint, instance, key, registration, token},
    contract::Contract,
    world::{OWN, World, policy},
};

#[test]
fn a_bound_node_registers_and_is_a_mesh_of_one() {
    let mut world = World::new();
    world.run_until_idle();
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Registering);
    assert!(world.is_guarded(), "nothing leaks while the node waits");
    assert!(!world.has_device());
    let Some(Intent::Register(offered)) = world.offered() else { panic!("{:?}", world.offered()) };
    assert_eq!(Registration { deadline: 0, ..offered }, Registration { deadline: 0, ..registration(OWN) });
    assert_eq!(world.agent.offer().unwrap().key_epoch, 1);
    assert!(status.own.membership_hint.unwrap().starts_with("meshctl register "));

    assert!(world.submit());
    world.hint();
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Ok, true), "{:?}", status.warnings);
    assert_eq!((status.own.membership, status.own.membership_hint), (MembershipState::Active, None));
    assert_eq!(world.agent.offer(), None, "the offer is gone");
    assert_eq!(world.disk.as_ref().unwrap().member.unwrap().token, token(OWN));
}

#[test]
fn a_node_with_funds_needs_no_relayer() {
    let mut world = World::new();
    world.faults.funded = true;
    world.run_until_idle();
    world.hint();
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
}

#[test]
fn a_new_peer_touches_no_other_peer() {
    let mut world = World::mesh(&[2, 3]);
    let proofs = world.commands["proofs"];
    world.join(4);
    world.hint();
    assert_eq!(world.take_changes(), [format!("add peer {} (token 4, 10.0.1.4)", key(4))]);
    assert_eq!(world.commands["proofs"], proofs + 1);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.take_changes(), [""; 0]);
    assert_eq!(world.commands["proofs"], proofs + 1, "a proof is fetched once");
    assert_eq!(world.status().verdict.state, VerdictState::Ok);
}

#[test]
fn every_way_of_leaving_cuts_the_peer_at_the_next_read() {
    let leave: [fn(&mut Contract); 4] = [
        |contract| contract.revoke(token(3)),
        |contract| contract.leave(token(3), |_| {}),
        |contract| contract.leave(token(3), |node| node.owner = None),
        |contract| contract.leave(token(3), |node| node.owner = Some(alloy_primitives::Address::repeat_byte(0x77))),
    ];
    for leave in leave {
        let mut world = World::mesh(&[2, 3, 4]);
        leave(&mut world.contract);
        world.hint();
        assert_eq!(world.take_changes(), [Change::RemovePeer(key(3)).to_string()]);
    }
}

#[test]
fn an_endpoint_update_needs_no_proof_and_ends_no_session() {
    let mut world = World::mesh(&[2]);
    let proofs = world.commands["proofs"];
    let update = EndpointUpdate {
        token: token(2),
        key_epoch: 1,
        endpoint_epoch: 1,
        endpoint: Some(endpoint(77)),
        gateway: None,
        deadline: 0,
    };
    assert!(world.contract.update_endpoint(update));
    world.hint();
    assert_eq!(world.take_changes(), [""; 0], "a live session follows its peer by itself");
    world.machine.device.as_mut().unwrap().peers[0].received_age = None;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.take_changes(), [format!("edit peer {} (token 2): endpoint 192.0.2.77:51821", key(2))]);
    assert_eq!(world.commands["proofs"], proofs);
}

#[test]
fn a_rotated_key_replaces_the_old_one() {
    let mut world = World::mesh(&[2, 3]);
    let rotated = Registration { wireguard_key: key(102), key_epoch: 2, ..registration(2) };
    assert!(world.contract.register(rotated));
    world.hint();
    let expected = [Change::RemovePeer(key(2)).to_string(), format!("add peer {} (token 2, 10.0.1.2)", key(102))];
    assert_eq!(world.take_changes(), expected);
}

#[test]
fn a_revoked_node_takes_itself_down_until_it_is_bound_again() {
    let mut world = World::mesh(&[2]);
    world.contract.revoke(token(OWN));
    world.hint();
    assert_eq!(world.take_changes(), [Change::RemoveDevice.to_string()]);
    assert!(world.is_guarded(), "nothing leaks while the node is fenced");
    let status = world.status();
    assert_eq!((status.verdict.state, status.verdict.exit_code), (VerdictState::Fenced, 5));
    assert!(status.warnings.iter().any(|warning| warning.code == "W105" && warning.message.contains("revoked")));
    assert!(matches!(world.agent.readiness(world.now), Err(NotReady::Fenced(_))));

    let hint = |world: &World| world.status().own.membership_hint.unwrap_or_default();
    assert!(hint(&world).starts_with("meshctl reinstate --token 1 "));

    // It reads on: each step of the owners' is seen, and the last one lets it back.
    world.faults.funded = true;
    world.contract.reinstate(token(OWN));
    world.hint();
    assert!(hint(&world).starts_with("meshctl bind --token 1 "), "{}", hint(&world));
    assert!(!world.has_device());
    world.contract.bind(token(OWN), instance(OWN));
    let bound = world.now.since_start;
    world.hint();
    // The block of its registration is news as well.
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert_eq!(world.keys_on_device(), [key(2)].into());
    assert!(world.now.since_start - bound <= Duration::from_secs(5));
}

#[test]
fn a_restart_alone_does_not_lift_a_fence() {
    let mut world = World::mesh(&[2]);
    world.contract.revoke(token(OWN));
    world.hint();
    world.restart();
    assert!(!world.has_device());
    world.run_until_idle();
    let status = world.status();
    assert_eq!((status.own.membership, status.verdict.state), (MembershipState::Fenced, VerdictState::Fenced));
    assert!(status.own.membership_hint.unwrap().starts_with("meshctl reinstate --token 1 "));
    assert!(!world.has_device());
}

#[test]
fn a_copy_of_this_node_that_registers_later_wins() {
    let mut world = World::mesh(&[2]);
    let copy = Registration { wireguard_key: key(101), key_epoch: 2, ..registration(OWN) };
    assert!(world.contract.register(copy));
    world.hint();
    assert_eq!(world.take_changes(), [Change::RemoveDevice.to_string()]);
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Fenced);
    assert!(status.warnings.iter().any(|warning| warning.message.contains("superseded")));
    world.restart();
    world.run_until_idle();
    assert_eq!(world.status().own.membership, MembershipState::Fenced, "or both would take turns for ever");
}

#[test]
fn a_reorg_takes_back_a_peer_and_the_own_registration() {
    let mut world = World::mesh(&[2]);
    world.join(3);
    world.hint();
    world.take_changes();
    world.contract.reorg(1);
    world.hint();
    assert_eq!(world.take_changes(), [Change::RemovePeer(key(3)).to_string()]);

    let mut world = World::new();
    world.contract.mine();
    world.contract.register(registration(OWN));
    world.run_until_idle();
    assert!(world.has_device());
    world.contract.reorg(1);
    world.faults.funded = true;
    world.hint();
    world.hint();
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Active, "registered again by itself");
    assert!(world.has_device());
}

#[test]
fn a_reorg_that_takes_back_a_revocation_lifts_the_fence() {
    let mut world = World::mesh(&[2]);
    world.contract.revoke(token(OWN));
    world.hint();
    assert!(!world.has_device());
    world.contract.reorg(1);
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert_eq!(world.keys_on_device(), [key(2)].into());
}

#[test]
fn an_offer_that_no_endpoint_took_is_tried_again_soon_and_then_less_often() {
    let mut world = World::new();
    world.faults.unheard = true;
    world.faults.funded = true;
    world.run_until_idle();
    let offers = |world: &World| world.commands["offer"];
    assert_eq!(offers(&world), 1);
    world.pass(Duration::from_secs(16));
    assert_eq!(offers(&world), 5, "after 1, 2, 4 and 8 s");
    world.pass(Duration::from_secs(600));
    assert!(offers(&world) <= 26, "every 30 s: {}", offers(&world));
    world.faults.unheard = false;
    world.pass(Duration::from_secs(30));
    world.hint();
    assert_eq!((world.offered(), world.status().own.membership), (None, MembershipState::Active));
}

#[test]
fn an_unpaid_offer_is_tried_again_and_signed_anew_in_time() {
    let mut world = World::new();
    world.run_until_idle();
    let deadline = |world: &World| world.offered().unwrap().deadline();
    let first = deadline(&world);
    world.pass(Duration::from_secs(95));
    assert_eq!(world.commands["offer"], 4, "every 30 s");
    assert_eq!(deadline(&world), first);
    world.pass(Duration::from_secs(3600));
    assert!(deadline(&world) > first);

    world.faults.signing_down = true;
    world.contract.leave(token(OWN), |_| {});
    world.contract.bind(token(OWN), instance(OWN));
    world.restart();
    world.run_until_idle();
    world.pass(Duration::from_secs(60));
    let warnings = world.status().warnings;
    assert!(warnings.iter().any(|warning| warning.code == "W106"), "{warnings:?}");
    world.faults.signing_down = false;
    world.faults.funded = true;
    world.pass(Duration::from_secs(60));
    assert_eq!(world.status().own.membership, MembershipState::Active);
}

#[test]
fn the_balance_is_unknown_until_it_was_read_and_followed_while_funds_are_missing() {
    let mut world = World::new();
    let balance = |world: &World| world.status().own.member_balance;
    assert_eq!(balance(&world), None);
    world.run_until_idle();
    assert_eq!(balance(&world), Some(Wei(U256::ZERO)));
    world.pass(Duration::from_secs(5));
    world.balance = Wei(U256::from(7));
    world.hint();
    assert_eq!(balance(&world), Some(Wei(U256::from(7))), "with the next block");

    // A member's own is for people to see.
    let mut member = World::mesh(&[2]);
    let asked = member.commands["balance"];
    for _ in 0..20 {
        member.pass(Duration::from_secs(1));
        member.hint();
    }
    assert_eq!(member.commands["balance"], asked);
    member.faults.rpc_down = true;
    member.pass(Duration::from_secs(60));
    assert_eq!(balance(&member), Some(Wei(U256::ZERO)), "what was read last");
}

#[test]
fn a_node_that_waits_for_funds_registers_within_moments_of_getting_them() {
    let mut world = World::new();
    world.run_until_idle();
    let warning = world.status().warnings.into_iter().find(|warning| warning.code == "W104").unwrap();
    assert_eq!(warning.message, "token 1 waits for funds or a relayer: no funds");
    let (contract, address) = (world.status().registry.contract, world.status().own.member_address);
    let hint =
        format!("meshctl register --contract {contract}  # or let the node pay: meshctl fund <ETHER> --to {address}");
    assert_eq!(warning.hint, Some(hint));
    let tried = world.commands["offer"];
    for _ in 0..20 {
        world.pass(Duration::from_secs(1));
        world.hint();
    }
    assert_eq!(world.commands["offer"], tried, "blocks that bring no funds are no reason to try again");
    (world.faults.funded, world.balance) = (true, Wei(U256::from(7)));
    world.hint();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.commands["offer"], tried + 1);
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Active);
}

/// Their block was read before the attempt failed: no other follows soon.
#[test]
fn funds_that_come_while_a_transaction_fails_are_noticed() {
    let mut world = World::new();
    world.run_until_idle();
    (world.faults.funded, world.balance) = (true, Wei(U256::from(7)));
    let tried = world.commands["offer"];
    world.pass(Duration::from_secs(1));
    assert_eq!(world.commands["offer"], tried + 1);
}

/// One endpoint says that there is too little, and the others that there is more.
#[test]
fn an_endpoint_that_denies_the_funds_makes_no_node_try_without_end() {
    let mut world = World::new();
    world.run_until_idle();
    world.balance = Wei(U256::from(7));
    let tried = world.commands["offer"];
    for _ in 0..40 {
        world.pass(Duration::from_millis(500));
        world.hint();
    }
    assert_eq!(world.commands["offer"], tried + 1);
    world.balance = Wei(U256::from(8));
    world.hint();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.commands["offer"], tried + 2, "more may be enough");
}

#[test]
fn a_new_endpoint_in_the_configuration_is_offered() {
    let mut world = World::mesh(&[2]);
    world.restart_with(mesh_core::agent::Policy { endpoint: OwnEndpoint::Known(endpoint(50)), ..policy() });
    world.run_until_idle();
    assert!(matches!(world.offered(), Some(Intent::UpdateEndpoint(update)) if update.endpoint == Some(endpoint(50))));
    assert_eq!(world.status().own.membership, MembershipState::Active);
    assert!(world.submit());
    world.hint();
    assert_eq!(world.offered(), None);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.offered(), None, "and not again");
}

#[test]
fn not_knowing_the_own_endpoint_takes_nothing_off_the_chain() {
    let mut world = World::mesh(&[2]);
    for unknown in [OwnEndpoint::Searching, OwnEndpoint::NotFound] {
        world.restart_with(Policy { endpoint: unknown, ..policy() });
        world.pass(Duration::from_secs(60));
        assert_eq!(world.offered(), None, "{unknown:?}");
        assert_eq!(world.keys_on_device(), [key(2)].into(), "the tunnel does not wait for it");
    }
    world.feed(Input::OwnEndpoint(OwnEndpoint::Known(endpoint(OWN))));
    assert_eq!(world.offered(), None, "it is what is on record");
    world.feed(Input::OwnEndpoint(OwnEndpoint::Known(endpoint(50))));
    assert!(matches!(world.offered(), Some(Intent::UpdateEndpoint(update)) if update.endpoint == Some(endpoint(50))));
    world.feed(Input::OwnEndpoint(OwnEndpoint::NotFound));
    assert_eq!(world.offered(), None, "an offer that is not wanted any more is withdrawn");
    world.restart_with(Policy { endpoint: OwnEndpoint::None, ..policy() });
    world.run_until_idle();
    assert!(matches!(world.offered(), Some(Intent::UpdateEndpoint(update)) if update.endpoint.is_none()));
}

#[test]
fn a_registration_waits_for_the_own_endpoint_until_it_is_given_up() {
    for (found, registered) in [(OwnEndpoint::Known(endpoint(9)), Some(endpoint(9))), (OwnEndpoint::NotFound, None)] {
        let mut world = World::new();
        world.restart_with(Policy { endpoint: OwnEndpoint::Searching, ..policy() });
        world.pass(Duration::from_secs(60));
        assert_eq!(world.offered(), None);
        world.feed(Input::OwnEndpoint(found));
        assert!(
            matches!(world.offered(), Some(Intent::Register(registration)) if registration.endpoint == registered),
            "{:?}",
            world.offered()
        );
    }
}

#[test]
fn a_foreign_route_into_the_mesh_is_a_critical_warning_and_not_ready() {
    let mut world = World::mesh(&[2]);
    world.machine.overlap = Some("route 10.0.1.2/32 by `eth0`".to_owned());
    world.pass(Duration::from_secs(2));
    let status = world.status();
    assert!(!status.verdict.ready && status.verdict.state == VerdictState::Down, "{:?}", status.verdict);
    let warning = status.warnings.iter().find(|warning| warning.code == "W503").unwrap();
    assert!(warning.severity == Severity::Critical && warning.message.contains("10.0.1.2/32"), "{warning:?}");
    world.contract.revoke(token(2));
    world.hint();
    assert_eq!(world.keys_on_device(), [].into(), "a revocation goes on");
    world.machine.overlap = None;
    world.pass(Duration::from_secs(2));
    assert!(world.status().verdict.ready);
}

#[test]
fn a_change_that_fails_does_not_keep_a_revoked_peer_in() {
    for failing in ["add_guard_route", "set_guard_table", "add_peer", "set_address", "edit_peer"] {
        let mut world = World::mesh(&[2, 3]);
        world.faults.failing_change = Some(failing);
        (world.machine.guard_route, world.machine.guard_table) = (None, None);
        let device = world.machine.device.as_mut().unwrap();
        device.up = false;
        device.peers.iter_mut().find(|peer| peer.public_key == key(2)).unwrap().persistent_keepalive = 0;
        world.join(4);
        world.contract.revoke(token(3));
        world.hint();
        assert!(!world.keys_on_device().contains(&key(3)), "{failing}");
    }
}

#[test]
fn a_hint_during_a_read_leads_to_exactly_one_more() {
    let mut world = World::mesh(&[2]);
    world.agent.handle(Input::Hint, world.now);
    let Some(Command::ReadRegistry { own_token }) = world.agent.poll_command() else { panic!("no read") };
    assert_eq!(own_token, Some(token(OWN)));
    for _ in 0..5 {
        world.agent.handle(Input::Hint, world.now);
        assert_eq!(world.agent.poll_command(), None);
    }
    let reads = world.commands["read"];
    let registry = world.contract.read(instance(OWN), own_token);
    world.feed(Input::Registry(Box::new(registry), mesh_core::agent::SourceReport::default()));
    assert_eq!(world.commands["read"], reads + 1);
}

#[test]
fn additions_wait_for_confirmations_and_removals_do_not() {
    let mut world = World::mesh(&[2]);
    world.restart_with(mesh_core::agent::Policy { confirmations: 2, ..policy() });
    world.contract.mine();
    world.contract.mine();
    world.run_until_idle();
    assert_eq!(world.keys_on_device(), [key(2)].into());
    world.join(3);
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2)].into());
    assert!(world.status().warnings.iter().any(|warning| warning.code == "W404"));
    world.contract.mine();
    world.contract.mine();
    // Blocks are no hint: while a peer waits for them, they are looked for.
    world.pass(Duration::from_secs(2));
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
    let reads = world.commands["read"];
    world.pass(Duration::from_secs(29));
    assert_eq!(world.commands["read"] - reads, 1, "and then no more");
    world.contract.revoke(token(3));
    world.hint();
    assert_eq!(world.keys_on_device(), [key(2)].into());
}

#[test]
fn what_others_do_to_the_device_is_set_right_within_a_second() {
    let mut world = World::mesh(&[2, 3]);
    world.machine.device = None;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());

    let device = world.machine.device.as_mut().unwrap();
    let mut stranger = device.peers[0].clone();
    stranger.public_key = key(250);
    device.peers.push(stranger);
    device.peers[0].allowed_ips.clear();
    device.up = false;
    (world.machine.guard_route, world.machine.guard_table) = (None, None);
    world.take_changes();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.take_changes().len(), 5);
    assert_eq!(world.keys_on_device(), [key(2), key(3)].into());
    assert!(world.status().registry.in_sync);
}

#[test]
fn an_orderly_stop_leaves_the_guard_alone() {
    let mut world = World::mesh(&[2]);
    world.feed(Input::Shutdown);
    assert!(world.stopped && !world.has_device() && world.is_guarded());
    assert_eq!(world.take_changes(), ["remove device"]);
    assert_eq!(world.agent.poll_timeout(), None);

    let mut early = World::new();
    early.faults.rpc_down = true;
    early.run_until_idle();
    early.feed(Input::Shutdown);
    assert!(early.stopped);
}

#[test]
fn a_stop_that_cannot_remove_its_device_gives_up_in_time() {
    let mut world = World::mesh(&[2]);
    world.faults.failing_change = Some("remove_device");
    world.feed(Input::Shutdown);
    assert!(!world.stopped);
    let applies = world.commands["apply"];
    world.pass(Duration::from_secs(2));
    assert!(!world.stopped && world.commands["apply"] > applies, "it tries again");
    world.pass(Duration::from_secs(2));
    assert!(world.stopped);
}

#[test]
fn a_foreign_owner_does_not_matter_to_an_active_node() {
    let mut world = World::mesh(&[2]);
    let registry = world.contract.read(instance(OWN), Some(token(OWN)));
    assert_eq!(registry.own_nodes[0].owner, Some(OWNER));
    // Another owner binds a token to this node's instance: the node keeps its own.
    world.contract.bind(token(9), instance(OWN));
    world.hint();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.status().own.token_id, Some(token(OWN)));
    world.restart();
    world.run_until_idle();
    assert_eq!(world.status().own.membership, MembershipState::Active);
}
