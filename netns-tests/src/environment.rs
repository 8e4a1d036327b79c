//! Numbers that the environment gives to tests: how long they run, and from which seed.

use std::env;

use anyhow::{Context as _, Result};

/// The number in this variable, or `default` where it is not set or empty.
pub fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}=`{text}` is not a number")),
        _ => Ok(default),
    }
}
