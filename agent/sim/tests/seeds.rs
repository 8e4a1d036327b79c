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
