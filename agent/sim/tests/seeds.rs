//! Seeds: some that are always the same, and with `SIM_SECONDS` some that are drawn anew each time.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mesh_sim::{Scenario, run, run_seed};

/// Seeds from 0 on that run with every change: the same each time, so that a change fails by what it changes.
const FIXED: u64 = 150;
/// New seeds are looked for with `SIM_SECONDS`: drawn anew, until so much time has passed in all.
const SECONDS: u64 = 0;

#[test]
fn every_property_holds_in_every_run() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    if let Some(seed) = number("SIM_SEED") {
        check(seed);
        return;
    }
    let began = Instant::now();
    (0..number("SIM_FIXED").unwrap_or(FIXED)).for_each(check);
    let until = began + Duration::from_secs(number("SIM_SECONDS").unwrap_or(SECONDS));
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos();
    // Short enough to be typed.
    let mut seed = u64::try_from(drawn % 1_000_000_000).expect("below") + FIXED;
    while Instant::now() < until {
        check(seed);
        seed += 1;
    }
}

/// Base stood still for almost two hours on 2026-06-25.
#[test]
fn a_halt_of_three_hours_costs_no_peer_where_sources_agree_that_it_is_one() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    for (endpoints, need, behind) in [(2, 2, 0), (3, 2, 0), (3, 2, 1)] {
        assert_eq!(run(&Scenario::halt(endpoints, need, behind, hours(3))).map(drop), Ok(()), "{endpoints}, {behind}");
    }
    // Where it may be blocks that are hidden, it does: at once where a single endpoint says so, later where two of three do.
    for (endpoints, need, behind, ends) in [(1, 1, 0, Duration::from_secs(120)), (3, 2, 2, hours(1))] {
        let found = run(&Scenario::halt(endpoints, need, behind, hours(3))).unwrap_err();
        assert_eq!(found.property, "halts-are-survived", "{found}");
        let frozen_before = Duration::from_secs(if behind == 2 { 60 } else { 0 });
        let after = found.at + frozen_before - Scenario::HALTS_AT;
        assert!((ends..ends + Duration::from_secs(40)).contains(&after), "{endpoints}, {behind}: {found}");
    }
}

/// A host can keep its node from every endpoint, and the node need not have found out: members tell it within 2 s of the block.
#[test]
fn a_revoked_node_is_off_a_node_without_endpoints_too() {
    for refuses in [false, true] {
        for after in [10, 300, 700, 1500, 4000, 20_000].map(Duration::from_millis) {
            let outcome = run(&Scenario::blocked(refuses, after, 0));
            assert_eq!(outcome.map(drop), Ok(()), "refuses {refuses}, revoked after {after:?}");
        }
    }
}

/// Of 2f + 1 = 5.
#[test]
fn f_members_that_collude_remove_no_peer_and_one_more_would() {
    for refuses in [false, true] {
        let outcome = |liars| run(&Scenario::blocked(refuses, Duration::ZERO, liars));
        assert_eq!(outcome(2).map(drop), Ok(()));
        assert_eq!(outcome(3).unwrap_err().property, "few-remove-none");
    }
}

#[test]
fn a_seed_decides_a_run() {
    for seed in 0..6 {
        let scenario = Scenario::of(seed);
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
}

fn check(seed: u64) {
    if let Err(failure) = run_seed(seed) {
        panic!("{failure}");
    }
}
