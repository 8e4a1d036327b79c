//! Two copies of one state directory, on two machines.

use std::time::Duration;

use mesh_core::{
    agent::{OwnEndpoint, Policy},
    registration::EndpointUpdate,
    status::{MembershipState, VerdictState},
};

use crate::{
    cluster::{endpoint, registration, token},
    world::{OWN, World, policy},
};

#[test]
fn two_copies_of_a_node_end_their_fight_after_a_few_transactions() {
    let mut one = World::mesh(&[2]);
    let mut other = World::mesh(&[2]);
    other.restart_with(Policy { endpoint: OwnEndpoint::Known(endpoint(50)), ..policy() });
    (one.faults.funded, other.faults.funded) = (true, true);
    let before = one.contract.head();
    for _ in 0..120 {
        // One contract for both.
        one.pass(Duration::from_secs(1));
        other.contract = one.contract.clone();
        other.pass(Duration::from_secs(1));
        one.contract = other.contract.clone();
    }
    let transactions = one.contract.head() - before;
    assert!((1..=5).contains(&transactions), "{transactions} transactions");
    let mut standings = [&one, &other].map(|world| world.status().own.membership);
    standings.sort_unstable_by_key(|state| *state == MembershipState::Fenced);
    assert_eq!(standings, [MembershipState::Active, MembershipState::Fenced]);
    let fenced = if one.status().own.membership == MembershipState::Fenced { &mut one } else { &mut other };
    let status = fenced.status();
    let warning = status.warnings.iter().find(|warning| warning.code == "W105").unwrap();
    assert!(warning.message.contains("a copy of this node runs"), "{warning:?}");
    assert!(warning.hint.as_ref().is_some_and(|hint| hint.contains("stop one of the two nodes")), "{warning:?}");
    assert!(!fenced.has_device() && status.verdict.state == VerdictState::Fenced);

    // It does not come back by itself, and does after a restart.
    fenced.contract.mine();
    fenced.pass(Duration::from_secs(600));
    assert_eq!(fenced.status().own.membership, MembershipState::Fenced);
    fenced.restart();
    fenced.run_until_idle();
    assert_eq!(fenced.status().own.membership, MembershipState::Active);
}

#[test]
fn what_a_node_moves_itself_is_no_copy() {
    let mut world = World::mesh(&[2]);
    world.faults.funded = true;
    for place in 50..60 {
        world.feed(mesh_core::agent::Input::OwnEndpoint(OwnEndpoint::Known(endpoint(place))));
        world.pass(Duration::from_secs(60));
        world.contract.reorg(1);
        world.pass(Duration::from_secs(120));
        assert_eq!(world.status().own.membership, MembershipState::Active, "{place}");
    }
}

#[test]
fn one_move_by_an_offer_of_an_earlier_run_is_put_right() {
    let mut world = World::mesh(&[2]);
    world.faults.funded = true;
    let late = endpoint(50);
    assert!(world.contract.update_endpoint(moved(&world, late)));
    world.hint();
    world.pass(Duration::from_secs(60));
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Active);
    let record = world
        .contract
        .read(crate::cluster::instance(OWN), None)
        .peers
        .into_iter()
        .find(|peer| peer.token == token(OWN));
    assert_eq!(record.unwrap().endpoint, registration(OWN).endpoint);
    assert!(world.contract.update_endpoint(moved(&world, late)));
    world.hint();
    assert_eq!(world.status().own.membership, MembershipState::Fenced, "the second time");
}

fn moved(world: &World, to: std::net::SocketAddr) -> EndpointUpdate {
    let (key_epoch, endpoint_epoch) = world.contract.epochs(token(OWN));
    let endpoint_epoch = endpoint_epoch + 1;
    EndpointUpdate { token: token(OWN), key_epoch, endpoint_epoch, endpoint: Some(to), gateway: None, deadline: 0 }
}
