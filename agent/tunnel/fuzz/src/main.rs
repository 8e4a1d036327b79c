//! The fuzz targets under libFuzzer, which brings the `main`: `make fuzz` builds and runs it, and nothing else does. The variable
//! `FUZZ_TARGET` names the target, arguments are libFuzzer's.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some((_, target)) = TARGETS.into_iter().find(|(other, _)| *other == name) else {
        panic!("`FUZZ_TARGET` must be one of {}", TARGETS.map(|(name, _)| name).join(", "))
    };
    target
}

fuzz_target!(init: { CHOSEN.get_or_init(chosen) }, |input: &[u8]| CHOSEN.get_or_init(chosen)(input));
