//! Each target over its corpus and variations of it.

use std::path::{Path, PathBuf};

use super::corpus::try_corpus_and_variations;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn datagram() {
    try_corpus_and_variations(&corpus("datagram"), super::datagram, 4);
}

#[test]
fn table() {
    try_corpus_and_variations(&corpus("table"), super::table, 1);
}
