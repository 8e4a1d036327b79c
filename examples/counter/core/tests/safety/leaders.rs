//! Leaders that die, are cut off, and come back.

use counter_core::{Doing, Token};

use crate::world::{NONE, OneWay, World};

fn founded(seed: u64, nodes: u16) -> (World, Token) {
    let mut world = World::new(seed, nodes, NONE);
    assert!(world.run_until(10_000, |world| world.clients.acknowledged.len() > 20), "{}", world.picture());
    let leader = world.chain.now().seat.leader.unwrap();
    (world, leader)
}

/// Whether clients are served again, by another.
fn served_by_another(world: &mut World, old: Token) {
    let before = world.clients.acknowledged.len();
    let served = |world: &World| {
        world.clients.acknowledged.len() > before + 8
            && world.chain.now().seat.leader.is_some_and(|leader| leader != old)
    };
    assert!(world.run_until(10_000, served), "{}", world.picture());
    world.oracle.check(&world.clients.acknowledged);
}

#[test]
fn a_leader_that_dies_is_replaced_within_ten_seconds() {
    for nodes in [3, 5] {
        let (mut world, leader) = founded(u64::from(nodes), nodes);
        world.stop(leader);
        served_by_another(&mut world, leader);
    }
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_follows_when_it_is_back() {
    for nodes in [3, 5] {
        let (mut world, leader) = founded(10 + u64::from(nodes), nodes);
        world.cut_off(&[leader]);
        // Its endpoint stands still too, so that it believes that it leads.
        world.freeze_view(leader);
        let old = world.nodes[&leader].replica.as_ref().unwrap();
        let (counted, length) = (old.counted(), old.log().length());
        served_by_another(&mut world, leader);
        let old = world.nodes[&leader].replica.as_ref().unwrap();
        assert_eq!(old.doing(), Doing::Leading, "the test is void: it knows");
        assert!(old.log().length() > length, "the test is void: no client asked it to count");
        assert!(old.counted() <= counted + 10, "counted {} more, alone", old.counted() - counted);

        world.cut_off(&[]);
        world.thaw_view(leader);
        let back = |world: &World| {
            let old = world.nodes[&leader].replica.as_ref().unwrap();
            old.doing() == Doing::Following && old.counted() + 20 > world.oracle.entries().len() as u64
        };
        assert!(world.run_until(10_000, back), "{}", world.picture());
        world.check_disks();
        world.oracle.check(&world.clients.acknowledged);
    }
}

/// It hears the others, or they hear it, and so it may well lead: but no increment counts that comes from elsewhere.
#[test]
fn a_leader_that_is_cut_off_in_one_direction_is_replaced_within_ten_seconds() {
    for nodes in [3, 5] {
        for (way, seed) in OneWay::ALL.into_iter().zip(60..) {
            let (mut world, leader) = founded(seed, nodes);
            world.cut_one_way(leader, way);
            served_by_another(&mut world, leader);
            let term = world.chain.now().seat.term;
            world.heal();
            let follows = |world: &World| world.promise(leader).term >= term;
            assert!(world.run_until(10_000, follows), "{way:?}: {}", world.picture());
            world.check_disks();
        }
    }
}

#[test]
fn a_follower_that_is_cut_off_in_one_direction_deposes_no_leader() {
    for (way, seed) in OneWay::ALL.into_iter().zip(70..) {
        let (mut world, leader) = founded(seed, 3);
        let seat = world.chain.now().seat;
        let follower = world.nodes.keys().copied().find(|&token| token != leader).unwrap();
        world.cut_one_way(follower, way);
        let before = world.clients.acknowledged.len();
        world.run(20_000);
        assert_eq!(world.chain.now().seat, seat, "{way:?}: {}", world.picture());
        assert!(world.clients.acknowledged.len() > before + 20, "{way:?}: {}", world.picture());
        let silence = world.nodes[&follower].replica.as_ref().unwrap().silence();
        assert!(
            silence.as_secs() > 15,
            "{way:?}: increments that it takes get nowhere, and it finds that the seat works"
        );
    }
}

#[test]
fn a_leader_that_restarts_goes_on_in_its_term() {
    let (mut world, leader) = founded(20, 3);
    let term = world.chain.now().seat.term;
    for _ in 0..5 {
        world.stop(leader);
        world.run(500);
        world.start(leader);
        let before = world.clients.acknowledged.len();
        assert!(world.run_until(5_000, |world| world.clients.acknowledged.len() > before + 8), "{}", world.picture());
        assert_eq!(world.chain.now().seat.term, term, "deposed for a short absence");
    }
    world.oracle.check(&world.clients.acknowledged);
}

#[test]
fn without_a_majority_nothing_counts_and_nothing_is_acknowledged() {
    let (mut world, leader) = founded(30, 5);
    let others: Vec<Token> = world.nodes.keys().copied().filter(|&token| token != leader).collect();
    others[..3].iter().for_each(|&token| world.stop(token));
    world.run(500);
    let before = world.clients.acknowledged.len();
    world.run(20_000);
    assert_eq!(world.clients.acknowledged.len(), before);
    world.start(others[0]);
    assert!(world.run_until(30_000, |world| world.clients.acknowledged.len() > before + 8), "{}", world.picture());
    world.oracle.check(&world.clients.acknowledged);
}

#[test]
fn a_term_given_to_two_leaders_is_led_by_one_at_most() {
    for seed in 40..60 {
        let (mut world, leader) = founded(seed, 5);
        let others: Vec<Token> = world.nodes.keys().copied().filter(|&token| token != leader).collect();
        // The election went one way, and some promised; then blocks were replaced, and it went another.
        world.chain.elect(world.now);
        world.run(seed % 7 * 60);
        world.chain.reorganise(world.now, 0, Some(others[usize::try_from(seed).unwrap() % 4]));
        let before = world.clients.acknowledged.len();
        assert!(world.run_until(40_000, |world| world.clients.acknowledged.len() > before + 8), "{}", world.picture());
        world.check_disks();
        world.oracle.check(&world.clients.acknowledged);
    }
}
