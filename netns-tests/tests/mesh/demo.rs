//! The steps of `make demo`: the program checks each of them itself.

use anyhow::{Result, ensure};
use netns_tests::Launch;

use crate::PATIENCE;

#[test]
fn every_step_of_the_demo_holds_and_nothing_is_left_behind() -> Result<()> {
    let ended = Launch::new(env!("CARGO_BIN_EXE_demo")).env("ONCE", "1").finish(PATIENCE)?;
    let printed = ended.success()?;
    ensure!(printed.contains("every check held, nothing is left behind"), "it printed {printed}");
    Ok(())
}
