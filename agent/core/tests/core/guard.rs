//! The guard: kept up without RPC, moved to the contract's network, put back and reported.

use std::time::Duration;

use mesh_core::{
    agent::{Guard, Input, Policy},
    network::MeshNetwork,
    observed::Observed,
    status::{Severity, VerdictState, Warning},
};

use crate::{
    cluster::network,
    world::{World, policy},
};

fn warning(world: &World, code: &str) -> Option<Warning> {
    world.status().warnings.into_iter().find(|warning| warning.code == code)
}

#[test]
fn the_guard_is_kept_up_before_the_contract_was_ever_read() {
    let mut world = World::new();
    world.faults.rpc_down = true;
    world.run_until_idle();
    assert!(world.is_guarded() && !world.has_device());
    (world.machine.guard_route, world.machine.guard_table) = (None, None);
    world.pass(Duration::from_secs(11));
    assert!(world.is_guarded(), "it is looked at and put back without RPC");
    world.feed(Input::Shutdown);
    assert!(world.stopped && world.is_guarded());
}

#[test]
fn the_guard_follows_the_network_that_the_contract_says_before_there_is_a_device() {
    let guess = MeshNetwork::new([10, 9, 0, 0].into(), 16).unwrap();
    let mut world = World::mesh(&[2]);
    world.disk = None;
    world.faults.rpc_down = true;
    world.machine = Observed { guard_route: Some(guess), guard_table: Some(guess), ..Observed::default() };
    world.restart_with(Policy { guard: Some(Guard { network: guess, table: true }), ..policy() });
    world.run_until_idle();
    assert_eq!(world.agent.guarded_network(), Some(guess));
    assert_eq!(world.take_changes(), [""; 0], "what stands is adopted");

    world.faults.rpc_down = false;
    world.machine.stale_guard_route = Some(guess);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.agent.guarded_network(), Some(network()));
    let changes = world.take_changes();
    let guard = ["add guard route 10.0.1.0/24", "remove guard route 10.9.0.0/16", "set guard table 10.0.1.0/24"];
    assert_eq!(changes[..3], guard);
    assert!(changes[3].starts_with("create device"), "{changes:?}");
    assert_eq!(warning(&world, "W506"), None, "nothing was removed");
}

#[test]
fn a_removal_of_the_guard_is_reported_with_the_time() {
    let mut world = World::mesh(&[2]);
    assert_eq!(warning(&world, "W506"), None);
    world.machine.guard_table = None;
    world.take_changes();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.take_changes(), ["set guard table 10.0.1.0/24"]);
    let reported = warning(&world, "W506").unwrap();
    assert!(
        reported.message.contains("packet filter table") && reported.message.contains("at 2023-11-14T22:"),
        "{reported:?}"
    );
    assert!(reported.message.ends_with("put back at once") && reported.severity == Severity::Warning, "{reported:?}");
    assert!(world.status().verdict.ready);
    world.pass(Duration::from_secs(660));
    assert_eq!(warning(&world, "W506"), None, "it is reported for a while");

    // A guard that cannot be put back is reported as long as that lasts, and no peer is added meanwhile.
    world.faults.failing_change = Some("set_guard_table");
    world.machine.guard_table = None;
    world.pass(Duration::from_secs(900));
    let reported = warning(&world, "W506").unwrap();
    assert!(reported.message.ends_with("NOT BACK YET") && reported.severity == Severity::Critical, "{reported:?}");
    assert!(!world.status().verdict.ready);
    world.join(3);
    world.hint();
    assert_eq!(world.keys_on_device().len(), 1);
    world.faults.failing_change = None;
    world.pass(Duration::from_secs(60));
    assert!(world.is_guarded() && world.keys_on_device().len() == 2);
}

#[test]
fn a_guard_without_a_table_is_a_warning_always() {
    let mut world = World::mesh(&[2]);
    assert_eq!(warning(&world, "W507"), None);
    world.restart_with(Policy { guard: Some(Guard { network: network(), table: false }), ..policy() });
    world.machine.guard_table = None;
    world.run_until_idle();
    world.pass(Duration::from_secs(30));
    assert_eq!(warning(&world, "W507").unwrap().severity, Severity::Warning);
    assert_eq!((world.status().verdict.state, world.machine.guard_table), (VerdictState::Degraded, None));
}
