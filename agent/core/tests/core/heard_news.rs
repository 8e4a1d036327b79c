//! What members say: a hint for a node that reads, removals for one that cannot, and nothing else.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use mesh_core::{
    agent::Input,
    id::WireguardKey,
    news::{Ask, News},
    registration::Registration,
    status::Severity,
};

use crate::{
    cluster::{key, network, registration, token},
    news::{news, signed_by},
    world::{OWN, World},
};

/// With this node five, of which f is 2.
const OTHERS: [u32; 4] = [2, 3, 4, 5];
/// The one that is said to have left.
const GONE: u32 = 5;

fn address(id: u32) -> Ipv4Addr {
    network().address_of(token(id)).unwrap()
}

/// A mesh of five, of which this node's endpoints do not answer any more; and node 5 was revoked since.
fn blind() -> World {
    let mut world = World::mesh(&OTHERS);
    world.faults.rpc_down = true;
    world.hint();
    world.contract.revoke(token(GONE));
    world
}

/// What node `teller` has read: that these left with these key epochs.
fn told(world: &World, teller: u32, removals: &[(u32, u32)]) -> News {
    news(teller, world.contract.epoch(), world.contract.head(), removals)
}

fn hear(world: &mut World, teller: u32, removals: &[(u32, u32)]) {
    let news = told(world, teller, removals);
    hear_news(world, teller, news);
}

fn hear_news(world: &mut World, signer: u32, news: News) {
    world.feed(Input::Told { from: address(signer), datagram: signed_by(signer, news) });
}

/// The endpoints answer again.
fn recover(world: &mut World) {
    world.faults.rpc_down = false;
    world.pass(Duration::from_millis(300));
    world.hint();
}

fn on_device(world: &World) -> BTreeSet<WireguardKey> {
    world.keys_on_device()
}

fn keys(ids: &[u32]) -> BTreeSet<WireguardKey> {
    ids.iter().map(|id| key(*id)).collect()
}

#[test]
fn more_than_half_of_the_members_remove_a_peer() {
    let mut world = blind();
    for (teller, left) in [(2, 4), (3, 4), (4, 3)] {
        hear(&mut world, teller, &[(GONE, 1)]);
        assert_eq!(on_device(&world).len(), left, "after node {teller}");
    }
    assert_eq!(on_device(&world), keys(&[2, 3, 4]));
    assert_eq!(world.take_changes(), [format!("remove peer {}", key(GONE))], "nothing else is touched");
    let status = world.status();
    let [removal] = &status.registry.removed_by_peers[..] else { panic!("{:?}", status.registry.removed_by_peers) };
    assert_eq!((removal.token, removal.key_epoch), (token(GONE), 1));
    assert_eq!(removal.told_by, [2, 3, 4].map(token));
    assert_eq!((removal.epoch, removal.block), (world.contract.epoch(), world.contract.head()));
    let warning = status.warnings.iter().find(|warning| warning.code == "W408").unwrap();
    assert_eq!((warning.severity, warning.peer), (Severity::Warning, Some(token(GONE))));
    assert!(warning.message.contains("members 2, 3, 4"), "{}", warning.message);

    recover(&mut world);
    assert_eq!(on_device(&world), keys(&[2, 3, 4]), "as the contract has it");
    let status = world.status();
    assert!(status.registry.removed_by_peers.is_empty() && status.warnings.iter().all(|it| it.code != "W408"));
}

/// f + 1 of each number of members, this node and the one that is said to have left among them: of three there are not enough others.
#[test]
fn so_many_of_each_number_remove_a_peer() {
    for (others, enough) in
        [(&[2, 3, 4, 5, 6][..], Some(3)), (&[2, 3, 4, 5], Some(3)), (&[2, 3, 4], Some(2)), (&[2, 3], None)]
    {
        let mut world = World::mesh(others);
        world.faults.rpc_down = true;
        world.hint();
        let (gone, tellers) = others.split_last().unwrap();
        world.contract.revoke(token(*gone));
        let removed_by = tellers.iter().zip(1..).find_map(|(teller, count)| {
            hear(&mut world, *teller, &[(*gone, 1)]);
            (on_device(&world).len() < others.len()).then_some(count)
        });
        assert_eq!(removed_by, enough, "of {} members", others.len() + 1);
    }
}

#[test]
fn the_removed_one_counts_not_and_each_other_once() {
    let mut world = blind();
    for _ in 0..3 {
        hear(&mut world, 2, &[(GONE, 1)]);
        world.contract.mine();
    }
    hear(&mut world, 3, &[(GONE, 1)]);
    hear(&mut world, GONE, &[(GONE, 1)]);
    assert_eq!(on_device(&world).len(), 4, "two members");
    hear(&mut world, 4, &[(GONE, 1)]);
    assert_eq!(on_device(&world).len(), 3);
}

/// f = 2 of 5.
#[test]
fn f_members_that_lie_remove_no_peer() {
    let mut world = World::mesh(&OTHERS);
    world.faults.rpc_down = true;
    world.hint();
    for _ in 0..20 {
        world.contract.mine();
        for liar in [2, 3] {
            let (epoch, block) = (world.contract.epoch() + 1 + world.contract.head(), world.contract.head() + 100);
            hear_news(&mut world, liar, news(liar, epoch, block, &[(OWN, 9), (4, 9), (GONE, 9)]));
        }
        world.pass(Duration::from_millis(700));
    }
    assert_eq!(on_device(&world), keys(&OTHERS));
}

#[test]
fn no_majority_puts_this_node_out_or_adds_one() {
    let mut world = blind();
    for teller in OTHERS {
        hear(&mut world, teller, &[(OWN, 9), (77, 1)]);
    }
    assert!(world.has_device());
    assert_eq!(on_device(&world), keys(&OTHERS));
    assert!(world.status().registry.removed_by_peers.is_empty());
}

#[test]
fn who_was_removed_by_members_removes_no_others() {
    let mut world = blind();
    for teller in [2, 3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    world.contract.mine();
    hear(&mut world, 2, &[(4, 1)]);
    hear(&mut world, 3, &[(4, 1)]);
    hear(&mut world, GONE, &[(4, 1)]);
    assert_eq!(on_device(&world), keys(&[2, 3, 4]), "it is not even heard");
}

#[test]
fn what_is_forged_or_anothers_counts_not() {
    let mut world = blind();
    hear(&mut world, 2, &[(GONE, 1)]);
    hear(&mut world, 3, &[(GONE, 1)]);
    // Signed by another, sent by another, and from an address of no peer.
    let of_node_4 = told(&world, 4, &[(GONE, 1)]);
    let forged = signed_by(3, of_node_4.clone());
    world.feed(Input::Told { from: address(4), datagram: forged });
    let genuine = signed_by(4, of_node_4.clone());
    for from in [address(3), address(77), Ipv4Addr::new(192, 0, 2, 1)] {
        world.feed(Input::Told { from, datagram: genuine.clone() });
    }
    let mut of_another_chain = of_node_4;
    of_another_chain.domain.chain_id += 1;
    hear_news(&mut world, 4, of_another_chain);
    world.feed(Input::Told { from: address(4), datagram: vec![0; 40] });
    assert_eq!(on_device(&world).len(), 4);
    assert_eq!(world.agent.counters().news_refused, 4, "those of peers");
    world.feed(Input::Told { from: address(4), datagram: genuine });
    assert_eq!(on_device(&world).len(), 3);
}

#[test]
fn what_was_read_already_is_nothing_new_when_it_is_repeated() {
    let mut world = World::mesh(&OTHERS);
    world.contract.revoke(token(GONE));
    let old: Vec<_> = [2, 3, 4].map(|teller| told(&world, teller, &[(GONE, 1)])).into();
    world.contract.reinstate(token(GONE));
    world.join(GONE);
    world.hint();
    assert_eq!(on_device(&world), keys(&OTHERS));
    world.faults.rpc_down = true;
    world.hint();
    for statement in old {
        let teller = statement.teller.get();
        hear_news(&mut world, teller, statement.clone());
        // Another block of the same epoch, and another epoch of the same block, show nothing later either.
        hear_news(&mut world, teller, News { block: 10_000, ..statement.clone() });
        hear_news(&mut world, teller, News { epoch: 10_000, ..statement });
    }
    assert_eq!(on_device(&world), keys(&OTHERS));
    assert_eq!(world.agent.counters().news_heard, 0, "no signature of these is checked");
}

#[test]
fn a_registration_with_a_later_key_epoch_is_none_that_they_meant() {
    let mut world = World::mesh(&[2, 3, 4]);
    world.contract.bind(token(GONE), crate::cluster::instance(GONE));
    assert!(world.contract.register(registration(GONE)));
    let newer = Registration { key_epoch: 2, wireguard_key: key(30), ..registration(GONE) };
    assert!(world.contract.register(newer));
    world.hint();
    world.faults.rpc_down = true;
    world.hint();
    world.contract.revoke(token(2));
    for teller in [2, 3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    assert!(on_device(&world).contains(&key(30)));
}

/// Two liars name a key epoch that bars every later registration as well: what an honest member says counts.
#[test]
fn the_lowest_key_epoch_that_enough_agree_on_counts() {
    let mut world = blind();
    hear(&mut world, 2, &[(GONE, u32::MAX)]);
    hear(&mut world, 3, &[(GONE, u32::MAX)]);
    hear(&mut world, 4, &[(GONE, 1)]);
    assert_eq!(world.status().registry.removed_by_peers[0].key_epoch, 1);
}

#[test]
fn an_own_read_of_that_block_outweighs_every_member() {
    let mut world = World::mesh(&OTHERS);
    world.faults.rpc_down = true;
    world.hint();
    world.contract.mine();
    for teller in [2, 3, 4] {
        let (epoch, block) = (world.contract.epoch() + 1, world.contract.head() + 1);
        hear_news(&mut world, teller, news(teller, epoch, block, &[(GONE, 1)]));
    }
    assert_eq!(on_device(&world).len(), 3);
    recover(&mut world);
    assert_eq!(on_device(&world).len(), 3, "the block before it says nothing of it");
    world.contract.mine();
    world.hint();
    assert_eq!(on_device(&world), keys(&OTHERS));
    assert!(world.status().registry.removed_by_peers.is_empty());
}

#[test]
fn a_block_of_the_far_future_holds_a_peer_back_for_a_minute() {
    let mut world = World::mesh(&OTHERS);
    world.faults.rpc_down = true;
    world.hint();
    for teller in [2, 3, 4] {
        hear_news(&mut world, teller, news(teller, u64::MAX, u64::MAX, &[(GONE, 1)]));
    }
    world.faults.rpc_down = false;
    world.pass(Duration::from_secs(50));
    assert_eq!(on_device(&world).len(), 3);
    world.pass(Duration::from_secs(30));
    assert_eq!(on_device(&world), keys(&OTHERS));
    for teller in [2, 3, 4] {
        hear_news(&mut world, teller, news(teller, u64::MAX, u64::MAX, &[(GONE, 1)]));
    }
    assert_eq!(on_device(&world), keys(&OTHERS), "the same again is nothing new");
}

#[test]
fn a_restart_without_endpoints_brings_no_peer_back() {
    let mut world = blind();
    for teller in [2, 3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    for _ in 0..2 {
        world.restart();
        world.pass(Duration::from_secs(5));
        assert_eq!(on_device(&world), keys(&[2, 3, 4]));
        assert_eq!(world.status().registry.removed_by_peers.len(), 1);
    }
    // What is told after a restart, while the view is the saved one, is kept, too.
    world.contract.revoke(token(4));
    hear(&mut world, 2, &[(4, 1), (GONE, 1)]);
    hear(&mut world, 3, &[(4, 1), (GONE, 1)]);
    assert_eq!(on_device(&world).len(), 3, "two of five are too few");
    world.contract.reinstate(token(GONE));
    world.join(GONE);
    world.faults.rpc_down = false;
    world.pass(Duration::from_secs(20));
    assert_eq!(on_device(&world), keys(&[2, 3, GONE]), "the contract decides");
}

#[test]
fn a_removal_that_was_told_after_a_restart_outlives_the_next() {
    let mut world = blind();
    world.restart();
    world.pass(Duration::from_secs(2));
    for teller in [2, 3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    world.restart();
    world.pass(Duration::from_secs(2));
    assert_eq!(on_device(&world), keys(&[2, 3, 4]));
}

#[test]
fn a_node_whose_endpoints_answer_asks_them() {
    let mut world = World::mesh(&OTHERS);
    let reads = world.commands["read"];
    world.contract.revoke(token(GONE));
    hear(&mut world, 2, &[]);
    assert_eq!(world.commands["read"], reads + 1, "at once");
    assert_eq!(on_device(&world), keys(&[2, 3, 4]));
    assert!(world.status().registry.removed_by_peers.is_empty());
}

/// f + 1 liars gain nothing where a read is answered.
#[test]
fn no_majority_removes_a_peer_that_the_endpoints_list() {
    let mut world = World::mesh(&OTHERS);
    for round in 0..50 {
        for teller in [2, 3, 4] {
            hear_news(&mut world, teller, news(teller, 1000 + round, 1000 + round, &[(GONE, 9)]));
        }
        world.pass(Duration::from_secs(1));
        assert_eq!(on_device(&world), keys(&OTHERS));
    }
    assert_eq!(world.take_changes(), [""; 0]);
}

/// A host that drops every packet to the endpoints: no read fails, none is answered.
#[test]
fn a_read_that_hangs_is_not_waited_for() {
    let mut world = World::mesh(&OTHERS);
    world.pass(Duration::from_secs(5));
    world.contract.revoke(token(GONE));
    world.faults.slow = true;
    for teller in [2, 3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    assert!(world.status().registry.removed_by_peers.is_empty(), "the endpoints were asked a moment ago");
    world.pass(Duration::from_millis(499));
    assert!(world.status().registry.removed_by_peers.is_empty());
    world.pass(Duration::from_millis(2));
    assert_eq!(world.status().registry.removed_by_peers.len(), 1);
}

#[test]
fn a_member_that_lies_makes_few_reads() {
    let mut world = World::mesh(&OTHERS);
    let reads = world.commands["read"];
    for round in 0..1200 {
        hear_news(&mut world, 2, news(2, 1000 + round, 1000 + round, &[]));
        world.pass(Duration::from_millis(100));
    }
    // Three, 2 s apart; then one in 15 s, as without any.
    let made = world.commands["read"] - reads;
    assert!((3..=20).contains(&made), "{made} reads in two minutes");

    // Another one is heard all the same.
    world.contract.revoke(token(GONE));
    hear(&mut world, 3, &[]);
    assert_eq!(on_device(&world), keys(&[2, 3, 4]));
}

#[test]
fn many_members_that_lie_make_few_reads() {
    let others: Vec<u32> = (2..=40).collect();
    let mut world = World::mesh(&others);
    let reads = world.commands["read"];
    for round in 0..100 {
        for teller in &others {
            hear_news(&mut world, *teller, news(*teller, 1000 + round, 1000 + round, &[]));
        }
        world.pass(Duration::from_millis(100));
    }
    assert!(world.commands["read"] - reads <= 21, "{}", world.commands["read"] - reads);
}

#[test]
fn a_flood_of_one_member_costs_the_others_nothing() {
    let mut world = blind();
    for round in 0..2000 {
        world.feed(Input::Told { from: address(2), datagram: vec![7; 1200] });
        world.feed(Input::Told { from: address(2), datagram: Ask { epoch: round }.encode() });
        let many: Vec<(u32, u32)> = (1..=64).map(|id| (id, 1)).collect();
        hear_news(&mut world, 2, news(2, 1000 + u64::from(round as u32), 1000, &many));
    }
    for teller in [3, 4] {
        hear(&mut world, teller, &[(GONE, 1)]);
    }
    assert_eq!(on_device(&world), keys(&[2, 3, 4]));
}
