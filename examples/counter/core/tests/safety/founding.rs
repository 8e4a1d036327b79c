//! How a cluster begins.

use counter_core::Token;

use crate::world::{NONE, World};

#[test]
fn it_is_founded_when_all_founders_are_there_and_no_earlier() {
    let mut world = World::new(1, 3, NONE);
    world.stop(Token(3));
    world.run(20_000);
    assert!(world.oracle.entries().is_empty(), "founded by two of three");
    assert_eq!(world.chain.now().seat.term, 1, "voted while a founder was missing");
    world.start(Token(3));
    assert!(world.run_until(5_000, |world| world.clients.acknowledged.len() > 3), "{}", world.picture());
}

#[test]
fn a_leader_that_is_no_founder_is_voted_out() {
    let mut world = World::new(2, 3, NONE);
    // A peer without a counter has the seat.
    world.chain.join(0, Token(9));
    while world.chain.now().seat.leader != Some(Token(9)) {
        world.chain.elect(0);
    }
    assert!(world.run_until(20_000, |world| world.clients.acknowledged.len() > 3), "{}", world.picture());
}

#[test]
fn a_joiner_becomes_a_member_and_is_needed_for_the_majority() {
    let mut world = World::new(3, 2, NONE);
    assert!(world.run_until(10_000, |world| world.clients.acknowledged.len() > 3));
    world.chain.join(world.now, Token(3));
    world.install(Token(3));
    let member = |world: &World| {
        let log = world.nodes[&Token(3)].replica.as_ref().unwrap().log();
        log.members().is_some_and(|members| members.contain(world.nodes[&Token(3)].id))
    };
    assert!(world.run_until(10_000, member), "{}", world.picture());
    // Two of three are a majority; before, both of two were needed.
    world.stop(Token(1));
    let before = world.clients.acknowledged.len();
    assert!(world.run_until(20_000, |world| world.clients.acknowledged.len() > before + 3), "{}", world.picture());
}

#[test]
fn who_comes_back_on_a_new_disk_is_struck_and_joins_anew() {
    let mut world = World::new(4, 3, NONE);
    assert!(world.run_until(10_000, |world| world.clients.acknowledged.len() > 3));
    let old = world.nodes[&Token(2)].id;
    world.install(Token(2));
    let new = world.nodes[&Token(2)].id;
    assert_ne!(old, new);
    let joined = |world: &World| {
        let log = world.nodes[&Token(1)].replica.as_ref().unwrap().log();
        log.members().is_some_and(|members| members.contain(new) && !members.contain(old))
    };
    assert!(world.run_until(30_000, joined), "{}", world.picture());
}

#[test]
fn who_leaves_the_contract_is_struck_after_a_while() {
    let mut world = World::new(5, 3, NONE);
    assert!(world.run_until(10_000, |world| world.clients.acknowledged.len() > 3));
    let leader = world.chain.now().seat.leader.unwrap();
    let leaver = world.nodes.keys().copied().find(|&token| token != leader).unwrap();
    world.chain.leave(world.now, leaver);
    world.stop(leaver);
    let struck = |world: &World| {
        let log = world.nodes[&leader].replica.as_ref().unwrap().log();
        log.members().is_some_and(|members| members.disk_of(leaver).is_none())
    };
    world.run(8_000);
    assert!(!struck(&world), "struck at once");
    assert!(world.run_until(5_000, struck), "{}", world.picture());
}
