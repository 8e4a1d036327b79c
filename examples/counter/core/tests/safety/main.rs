//! Nodes on a simulated network under everything that may happen to them: what was acknowledged stays, and counts once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod chain;
mod clients;
mod following;
mod founding;
mod leaders;
mod oracle;
mod steps;
mod world;

use proptest::{prelude::*, test_runner::RngSeed};

use counter_core::{Doing, Token};
use world::{Faults, World};

/// Every kind of misfortune, more often than a cluster would survive for long.
const ALL: Faults = Faults {
    lost: 20,
    repeated: 15,
    slow: 25,
    crash: 1500,
    restart: 150,
    partition: 400,
    one_way: 500,
    election: 600,
    reorganisation: 900,
    wrong_seat: 150,
    membership: 800,
    disk_lost: 2500,
};

/// Faults, then none: every waiting client is served, all nodes come to the same count, and it is the right one.
fn live_through(seed: u64, founders: u16, faults: Faults) -> Seen {
    let mut world = World::new(seed, founders, faults);
    // Founding needs every founder once, with its disk.
    assert!(World::found(&mut world), "seed {seed}: not founded");
    world.run(40_000);
    world.check_disks();
    world.heal();
    let before = world.clients.progress();
    let served = |world: &World| world.clients.progress().iter().zip(&before).all(|(now, then)| now > &(then + 3));
    assert!(
        world.run_until(120_000, served),
        "seed {seed}: clients are not served after it is over: {}",
        world.picture()
    );
    // A node that promised a term which was taken back needs a later one.
    let promised = world.nodes.keys().map(|&token| world.promise(token).term).max().unwrap_or(0);
    while world.chain.now().seat.term <= promised {
        world.chain.elect(world.now);
    }
    let level = |world: &World| {
        let length = world.oracle.entries().len() as u64;
        world.nodes.values().all(|node| node.replica.as_ref().is_some_and(|r| r.counted() + 50 >= length))
    };
    assert!(world.run_until(60_000, level), "seed {seed}: nodes stay behind: {}", world.picture());
    world.check_disks();
    let count = world.oracle.check(&world.clients.acknowledged);
    assert!(count >= world.clients.acknowledged.len() as u64);
    for node in world.nodes.values() {
        let replica = node.replica.as_ref().unwrap();
        let entries = &world.oracle.entries()[..usize::try_from(replica.counted()).unwrap()];
        assert_eq!(replica.counter().value(), oracle::distinct(entries), "seed {seed}: {:?}", node.id);
    }
    Seen { acknowledged: world.clients.acknowledged.len(), terms: world.chain.now().seat.term }
}

struct Seen {
    acknowledged: usize,
    terms: u32,
}

/// The same few runs every time; `make soak` sets `PROPTEST_CASES`, and draws others.
fn runs() -> ProptestConfig {
    let others = ProptestConfig { max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return others;
    }
    ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(51823), ..others }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn nothing_acknowledged_is_lost_or_counted_twice(seed in any::<u64>(), founders in prop::sample::select(vec![1_u16, 2, 3, 4, 5])) {
        live_through(seed, founders, ALL);
    }

    #[test]
    fn nor_where_only_leaders_and_the_network_change(seed in any::<u64>(), founders in prop::sample::select(vec![3_u16, 5])) {
        let faults = Faults { membership: u64::MAX, disk_lost: u64::MAX, wrong_seat: u64::MAX, election: 150, crash: 600, ..ALL };
        live_through(seed, founders, faults);
    }

    #[test]
    fn nor_where_members_change_all_the_time(seed in any::<u64>(), founders in prop::sample::select(vec![1_u16, 3, 5])) {
        let faults = Faults { membership: 150, disk_lost: 600, election: 300, partition: 1200, ..ALL };
        live_through(seed, founders, faults);
    }
}

/// The runs above would show little if nothing happened in them.
#[test]
fn much_happens_in_these_runs() {
    let runs: Vec<Seen> = (0..12).map(|seed| live_through(seed, 3, ALL)).collect();
    let acknowledged: usize = runs.iter().map(|seen| seen.acknowledged).sum();
    let terms: u32 = runs.iter().map(|seen| seen.terms).sum();
    assert!(acknowledged > 12 * 40, "{acknowledged} acknowledged");
    assert!(terms > 12 * 8, "{terms} terms");
}

impl World {
    /// Lets the cluster be founded in peace; misfortune begins then.
    fn found(world: &mut Self) -> bool {
        let faults = world.replace_faults(world::NONE);
        let founded = world.run_until(30_000, |world| !world.oracle.entries().is_empty());
        world.replace_faults(faults);
        founded
    }

    /// For messages.
    pub(crate) fn picture(&self) -> String {
        let node = |token: &Token| {
            let node = &self.nodes[token];
            let state = node.replica.as_ref().map(|replica| {
                let doing: Doing = replica.doing();
                format!(
                    "{doing:?} seat {:?} promise {:?} end {:?} counted {} members {:?}",
                    replica.seat(),
                    self.promise(*token),
                    replica.log().end(),
                    replica.counted(),
                    replica.log().members()
                )
            });
            format!("\n  {:?}: {state:?}", node.id)
        };
        let nodes: String = self.nodes.keys().map(node).collect();
        format!("at {} ms, seat {:?}, peers {:?}{nodes}", self.now, self.chain.now().seat, self.chain.now().peers)
    }
}
