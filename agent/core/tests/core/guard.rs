//! The guard: kept up without RPC, moved to the contract's network, put back and told.

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
    world.settle();
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
    world.settle();
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
    assert_eq!(warning(&world, "W506"), None, "nobody took anything away");
}

#[test]
fn who_takes_the_guard_away_is_told_with_the_time() {
    let mut world = World::mesh(&[2]);
    assert_eq!(warning(&world, "W506"), None);
    world.machine.guard_table = None;
    world.take_changes();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.take_changes(), ["set guard table 10.0.1.0/24"]);
    let told = warning(&world, "W506").unwrap();
    assert!(told.message.contains("packet filter table") && told.message.contains("at 2023-11-14T22:"), "{told:?}");
    assert!(told.message.ends_with("put back at once") && told.severity == Severity::Warning, "{told:?}");
    assert!(world.status().verdict.ready);
    world.pass(Duration::from_secs(660));
    assert_eq!(warning(&world, "W506"), None, "it is told for a while");

    // What cannot be put back is told as long as that lasts, and no peer is added meanwhile.
    world.faults.failing_change = Some("set_guard_table");
    world.machine.guard_table = None;
    world.pass(Duration::from_secs(900));
    let told = warning(&world, "W506").unwrap();
    assert!(told.message.ends_with("NOT BACK YET") && told.severity == Severity::Critical, "{told:?}");
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
    world.settle();
    world.pass(Duration::from_secs(30));
    assert_eq!(warning(&world, "W507").unwrap().severity, Severity::Warning);
    assert_eq!((world.status().verdict.state, world.machine.guard_table), (VerdictState::Degraded, None));
}
