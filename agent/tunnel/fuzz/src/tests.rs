//! Each target over its corpus and variations of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::TARGETS;
use super::corpus::{entries, try_corpus_and_variations};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

fn corpus(target: &str) -> PathBuf {
    Path::new(CORPUS).join(target)
}

#[test]
fn aead() {
    try_corpus_and_variations(&corpus("aead"), super::aead, 4);
}

#[test]
fn datagram() {
    try_corpus_and_variations(&corpus("datagram"), super::datagram, 4);
}

#[test]
fn device() {
    try_corpus_and_variations(&corpus("device"), super::device, 1);
}

#[test]
fn ip() {
    try_corpus_and_variations(&corpus("ip"), super::ip, 64);
}

#[test]
fn merge() {
    try_corpus_and_variations(&corpus("merge"), super::merge, 4);
}

#[test]
fn mss() {
    try_corpus_and_variations(&corpus("mss"), super::mss, 64);
}

#[test]
fn news() {
    try_corpus_and_variations(&corpus("news"), super::news, 64);
}

#[test]
fn split() {
    try_corpus_and_variations(&corpus("split"), super::split, 64);
}

#[test]
fn table() {
    try_corpus_and_variations(&corpus("table"), super::table, 1);
}

#[test]
fn uapi() {
    try_corpus_and_variations(&corpus("uapi"), super::uapi, 64);
}

/// The targets are all that there are, and each has a corpus of small files.
#[test]
fn every_target_has_its_corpus() {
    let named: BTreeSet<_> = TARGETS.iter().map(|(name, _)| corpus(name)).collect();
    assert_eq!(entries(Path::new(CORPUS)).into_iter().collect::<BTreeSet<_>>(), named);
    for path in named.iter().flat_map(|directory| entries(directory)) {
        assert!(std::fs::metadata(&path).unwrap().len() <= 1024, "{}", path.display());
    }
}
