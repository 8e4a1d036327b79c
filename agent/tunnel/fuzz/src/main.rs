//! The fuzz targets under libFuzzer, which brings the `main`: `make fuzz` builds and runs it, and nothing else does. The variable
//! `FUZZ_TARGET` names the target, arguments are libFuzzer's.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let all = TARGETS.into_iter().chain(mesh_tunnel::fuzz::TARGETS);
    let Some((_, target)) = all.clone().find(|(other, _)| *other == name) else {
        panic!("`FUZZ_TARGET` must be one of {}", all.map(|(name, _)| name).collect::<Vec<_>>().join(", "))
    };
    target
}

fuzz_target!(init: { CHOSEN.get_or_init(chosen) }, |input: &[u8]| CHOSEN.get_or_init(chosen)(input));
