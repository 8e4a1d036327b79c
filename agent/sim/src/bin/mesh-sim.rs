//! Runs seeds one after the other: `mesh-sim FIRST COUNT`, or `mesh-sim --seconds N` from a seed that the clock gives. Stops at the
//! first that fails, prints its shrunk history, and exits with 1.

#![expect(clippy::print_stdout, reason = "its whole output is for people")]

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mesh_sim::{Scenario, run, shrink};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    match arguments.as_slice() {
        ["--seconds", seconds] => match number(seconds) {
            Some(seconds) => seeds(drawn(), u64::MAX, Some(Duration::from_secs(seconds))),
            None => usage(),
        },
        [first, count] => match number(first).zip(number(count)) {
            Some((first, count)) => seeds(first, count, None),
            None => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    println!("usage: mesh-sim FIRST COUNT | mesh-sim --seconds N");
    ExitCode::from(2)
}

/// A seed that is short enough to be typed.
fn drawn() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 100_000 * 100_000
}

fn seeds(first: u64, count: u64, time: Option<Duration>) -> ExitCode {
    // Panics are reported with their seeds.
    std::panic::set_hook(Box::new(|_| {}));
    let (began, mut done, mut steps, mut virtual_time) = (Instant::now(), 0, 0, Duration::ZERO);
    for seed in (first..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if time.is_some_and(|time| began.elapsed() >= time) {
            break;
        }
        let scenario = Scenario::of(seed);
        match run(&scenario) {
            Ok(summary) => {
                done += 1;
                steps += summary.steps;
                virtual_time += summary.time;
            }
            Err(violation) => {
                println!("seed {seed} fails after {done} that did not, {:.1?}: {violation}", began.elapsed());
                println!("{}", shrink(&scenario, violation));
                return ExitCode::FAILURE;
            }
        }
    }
    let hour = f64::from(u32::try_from(done).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64() * 3600.0;
    println!(
        "{done} seeds, {steps} events, {virtual_time:.0?} of virtual time in {:.1?}: {hour:.0} an hour",
        began.elapsed()
    );
    ExitCode::SUCCESS
}
