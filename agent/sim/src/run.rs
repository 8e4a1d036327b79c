//! Running a seed, and finding out how little of what happens in it makes it fail.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::{checks::Violation, scenario::Scenario, world::World};

/// What happened in a run that ended well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events that were handled.
    pub steps: u64,
    /// Virtual time.
    pub time: Duration,
}

/// A run that failed, with as little happening as it takes.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What happens.
    pub scenario: Scenario,
    /// What does not hold.
    pub violation: Violation,
    /// Events of the history before it was shrunk.
    pub of: usize,
}

/// Runs a scenario to its end, or to the first property that does not hold. A panic is one, too.
///
/// # Errors
/// A property does not hold.
pub fn run(scenario: &Scenario) -> Result<Summary, Violation> {
    let run = || {
        let mut world = World::new(scenario);
        world.run().map(|()| Summary { steps: world.steps, time: world.now })
    };
    // Nothing of the world outlives the panic.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { property: "no-panic", at: Duration::ZERO, what: what.unwrap_or_default() })
    })
}

/// Runs a seed, and shrinks it if it fails.
///
/// # Errors
/// A property does not hold.
pub fn run_seed(seed: u64) -> Result<Summary, Box<Failure>> {
    let scenario = Scenario::of(seed);
    run(&scenario).map_err(|violation| Box::new(shrink(&scenario, violation)))
}

/// Takes events out of the history, one after the other, as long as the same property fails.
#[must_use]
pub fn shrink(scenario: &Scenario, violation: Violation) -> Failure {
    let of = scenario.history.len();
    let (mut scenario, mut violation) = (scenario.clone(), violation);
    let mut is_smaller = true;
    while std::mem::take(&mut is_smaller) {
        let mut index = scenario.history.len();
        while index > 0 {
            index -= 1;
            let mut history = scenario.history.clone();
            history.remove(index);
            let smaller = scenario.with(history);
            if let Err(found) = run(&smaller)
                && found.property == violation.property
            {
                (scenario, violation, is_smaller) = (smaller, found, true);
            }
        }
    }
    Failure { scenario, violation, of }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, violation, of } = self;
        writeln!(f, "{violation}")?;
        write!(f, "{scenario}")?;
        writeln!(f, "of {of} events. Repeat with:")?;
        write!(f, "  SIM_SEED={} cargo test -p mesh-sim --test seeds", scenario.seed)
    }
}
