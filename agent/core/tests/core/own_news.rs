//! What a node tells its peers, and whom; and whom it asks when it cannot read.

use std::time::Duration;

use mesh_core::{
    agent::Input,
    news::{Ask, Message, News, Removal},
    registration::Registration,
};

use crate::{
    cluster::{key, network, registration, token},
    world::{OWN, World},
};

fn address(id: u32) -> std::net::Ipv4Addr {
    network().address_of(token(id)).unwrap()
}

/// Who was sent news since the last call, by their last byte, and that news.
fn told(world: &mut World) -> Vec<(Vec<u8>, News)> {
    let sent = std::mem::take(&mut world.sent).into_iter().filter_map(|(to, message)| match message {
        Message::News(news) => Some((to.iter().map(|to| to.octets()[3]).collect(), news)),
        Message::Ask(_) => None,
    });
    sent.collect()
}

/// How many were asked, in each question since the last call.
fn asked(world: &mut World) -> Vec<usize> {
    let sent = std::mem::take(&mut world.sent).into_iter();
    sent.filter_map(|(to, message)| matches!(message, Message::Ask(_)).then_some(to.len())).collect()
}

fn ask(world: &mut World, id: u32, epoch: u64) {
    world.feed(Input::Told { from: address(id), datagram: Ask { epoch }.encode() });
}

#[test]
fn who_read_a_change_tells_all_peers_once() {
    let mut world = World::mesh(&[2, 3, 4]);
    told(&mut world);
    world.contract.revoke(token(4));
    world.hint();
    let news = told(&mut world);
    let [(to, news)] = &news[..] else { panic!("{news:?}") };
    assert_eq!(*to, [2, 3]);
    let removals = vec![Removal { token: token(4), key_epoch: 1 }];
    let (epoch, block) = (world.contract.epoch(), world.contract.head());
    assert_eq!((news.teller, news.epoch, news.block, &news.removals), (token(OWN), epoch, block, &removals));
    world.pass(Duration::from_secs(60));
    assert_eq!(told(&mut world), [], "and not again");

    world.join(6);
    world.hint();
    let news = told(&mut world);
    assert_eq!(news.last().map(|(_, news)| &news.removals), Some(&removals), "what left lately is told again");
    world.pass(Duration::from_secs(3600));
    world.join(7);
    world.hint();
    assert_eq!(told(&mut world).last().map(|(_, news)| news.removals.len()), Some(0), "for an hour");
}

#[test]
fn a_replaced_key_has_left_and_a_renewed_registration_has_not() {
    let mut world = World::mesh(&[2, 3]);
    assert!(world.contract.register(Registration { key_epoch: 2, ..registration(2) }));
    world.hint();
    assert!(told(&mut world).last().unwrap().1.removals.is_empty());
    assert!(world.contract.register(Registration { key_epoch: 2, wireguard_key: key(30), ..registration(3) }));
    world.hint();
    assert_eq!(told(&mut world).last().unwrap().1.removals, [Removal { token: token(3), key_epoch: 1 }]);
}

#[test]
fn what_a_fork_took_back_is_not_told() {
    let mut world = World::mesh(&[2, 3]);
    world.contract.revoke(token(3));
    world.hint();
    world.contract.reorg(1);
    world.pass(Duration::from_secs(10));
    world.join(4);
    world.join(5);
    world.hint();
    assert!(told(&mut world).last().unwrap().1.removals.is_empty());
}

#[test]
fn what_was_told_is_not_told_on() {
    let mut world = World::mesh(&[2, 3, 4, 5]);
    world.faults.rpc_down = true;
    world.hint();
    world.contract.revoke(token(5));
    told(&mut world);
    for teller in [2, 3, 4] {
        let (epoch, block) = (world.contract.epoch(), world.contract.head());
        let news = crate::news::news(teller, epoch, block, &[(5, 1)]);
        world.feed(Input::Told { from: address(teller), datagram: crate::news::signed_by(teller, news) });
    }
    assert!(!world.keys_on_device().contains(&key(5)));
    assert_eq!(told(&mut world), []);
    world.faults.rpc_down = false;
    world.pass(Duration::from_millis(300));
    world.hint();
    assert_eq!(told(&mut world).len(), 1, "what it has read then, it tells");
}

#[test]
fn of_many_peers_some_are_told_in_turn_and_all_that_asked() {
    let others: Vec<u32> = (2..=60).collect();
    let mut world = World::mesh(&others);
    let epoch = world.contract.epoch();
    ask(&mut world, 50, epoch);
    told(&mut world);
    let mut ever: Vec<u8> = Vec::new();
    for id in 100..104 {
        world.join(id);
        world.hint();
        let news = told(&mut world);
        let [(to, _)] = &news[..] else { panic!("{news:?}") };
        assert!((16..=17).contains(&to.len()) && to.contains(&50), "{to:?}");
        ever.extend(to);
        world.pass(Duration::from_secs(2));
        let again: Vec<_> = told(&mut world).into_iter().map(|(to, _)| to).collect();
        assert_eq!(again, [[50], [50]], "a datagram may be lost");
    }
    ever.sort_unstable();
    ever.dedup();
    assert!(ever.len() >= 59, "{} of them", ever.len());
    world.pass(Duration::from_secs(61));
    world.join(104);
    world.hint();
    told(&mut world);
    world.pass(Duration::from_secs(2));
    assert_eq!(told(&mut world), [], "it asks no more");
}

#[test]
fn who_asks_is_answered_twice_a_second_at_most() {
    let mut world = World::mesh(&[2, 3]);
    told(&mut world);
    let epoch = world.contract.epoch();
    ask(&mut world, 2, epoch);
    assert_eq!(told(&mut world), [], "it knows as much");
    for _ in 0..100 {
        ask(&mut world, 2, epoch - 1);
        ask(&mut world, 3, epoch - 1);
        world.pass(Duration::from_millis(10));
    }
    let answers = told(&mut world);
    let to = |id: u8| answers.iter().filter(|(to, _)| *to == [id]).count();
    assert_eq!((to(2), to(3), answers.len()), (2, 2, 4));
    world.feed(Input::Told { from: address(77), datagram: Ask { epoch: 0 }.encode() });
    assert_eq!(told(&mut world), [], "and who is no peer is not");
}

#[test]
fn a_node_that_cannot_read_asks_all_peers() {
    let mut world = World::mesh(&[2, 3]);
    asked(&mut world);
    world.pass(Duration::from_secs(60));
    assert_eq!(asked(&mut world), [0; 0], "one that can does not");
    world.faults.rpc_down = true;
    world.hint();
    assert_eq!(asked(&mut world), [2], "at once");
    world.pass(Duration::from_millis(4500));
    assert_eq!(asked(&mut world), [2; 4]);
    world.pass(Duration::from_secs(50));
    let later = asked(&mut world).len();
    assert!((10..=11).contains(&later), "{later}");
    world.faults.rpc_down = false;
    world.pass(Duration::from_secs(20));
    asked(&mut world);
    world.pass(Duration::from_secs(60));
    assert_eq!(asked(&mut world), [0; 0]);
}

#[test]
fn it_asks_faster_until_enough_have_said_who_left() {
    let mut world = World::mesh(&[2, 3, 4, 5]);
    world.faults.rpc_down = true;
    world.pass(Duration::from_secs(60));
    world.contract.revoke(token(5));
    let tell = |world: &mut World, teller| {
        let news = crate::news::news(teller, world.contract.epoch(), world.contract.head(), &[(5, 1)]);
        world.feed(Input::Told { from: address(teller), datagram: crate::news::signed_by(teller, news) });
    };
    tell(&mut world, 2);
    asked(&mut world);
    world.pass(Duration::from_secs(20));
    assert!((19..=21).contains(&asked(&mut world).len()));
    tell(&mut world, 3);
    tell(&mut world, 4);
    assert!(!world.keys_on_device().contains(&key(5)));
    world.contract.mine();
    tell(&mut world, 4);
    asked(&mut world);
    world.pass(Duration::from_secs(20));
    assert!((3..=5).contains(&asked(&mut world).len()));
}

#[test]
fn a_port_that_is_taken_is_a_warning_until_it_is_free() {
    let mut world = World::mesh(&[2]);
    let is_warned = |world: &World| world.status().warnings.iter().any(|warning| warning.code == "W508");
    world.feed(Input::NewsPort(Err("in use".to_owned())));
    assert!(is_warned(&world) && world.agent.readiness(world.now).is_ok());
    world.feed(Input::NewsPort(Ok(())));
    assert!(!is_warned(&world));
}

#[test]
fn a_restarted_node_tells_what_left_meanwhile_and_nothing_that_it_has_from_the_disk() {
    let mut world = World::mesh(&[2, 3]);
    told(&mut world);
    world.faults.rpc_down = true;
    world.restart();
    world.pass(Duration::from_secs(5));
    ask(&mut world, 2, 0);
    assert_eq!(told(&mut world), [], "it has read nothing itself");
    world.contract.revoke(token(3));
    world.faults.rpc_down = false;
    world.pass(Duration::from_secs(20));
    let news = told(&mut world);
    assert_eq!(news.first().map(|(_, news)| news.removals.len()), Some(1), "{news:?}");
}

#[test]
fn a_node_that_is_no_peer_tells_nothing_and_asks_nothing() {
    let mut world = World::mesh(&[2, 3]);
    told(&mut world);
    world.contract.revoke(token(OWN));
    world.hint();
    world.contract.revoke(token(3));
    world.hint();
    world.faults.rpc_down = true;
    world.pass(Duration::from_secs(60));
    assert!(world.sent.is_empty(), "{:?}", world.sent);
}
