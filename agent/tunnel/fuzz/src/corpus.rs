//! A fuzz target without a fuzzer: every input of its corpus, and variations of it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::Target;

/// The files and directories in a directory, sorted.
pub(super) fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// One step from an input to another.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let (at, len) = (0_usize..2048, 1_usize..64);
        prop_oneof![
            3 => (at.clone(), 0_u32..8).prop_map(|(at, bit)| Self::Flip(at, 1 << bit)),
            2 => (at.clone(), prop_oneof![Just(0), Just(255), any::<u8>()]).prop_map(|(at, byte)| Self::Set(at, byte)),
            1 => (at.clone(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            1 => (at.clone(), len.clone()).prop_map(|(at, len)| Self::Remove(at, len)),
            1 => (at, len).prop_map(|(at, len)| Self::Repeat(at, len)),
        ]
    }

    fn make(self, input: &mut Vec<u8>) {
        let (Self::Flip(at, _) | Self::Set(at, _) | Self::Insert(at, _) | Self::Remove(at, _) | Self::Repeat(at, _)) =
            self;
        let at = at % (input.len() + 1);
        match self {
            Self::Flip(_, mask) => input[at..].iter_mut().take(1).for_each(|byte| *byte ^= mask),
            Self::Set(_, new) => input[at..].iter_mut().take(1).for_each(|byte| *byte = new),
            Self::Insert(_, bytes) => drop(input.splice(at..at, bytes)),
            Self::Remove(_, len) => drop(input.drain(at..input.len().min(at + len))),
            Self::Repeat(_, len) => input.extend_from_within(at..input.len().min(at + len)),
        }
    }
}

/// Runs `target` with every input in the directory `corpus`, and with `times` as many variations as `PROPTEST_CASES` says: fast
/// targets can afford more.
pub(super) fn try_corpus_and_variations(corpus: &Path, target: Target, times: u32) {
    let paths = entries(corpus);
    assert!(!paths.is_empty(), "{} is empty", corpus.display());
    let holds = |input: &[u8]| std::panic::catch_unwind(|| target(input)).is_ok();
    let inputs: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, input) in paths.iter().zip(&inputs) {
        assert!(holds(input), "the target panicked (see above) with {}", path.display());
    }
    let varied =
        (prop::sample::select(inputs), prop::collection::vec(Change::any(), 1..8)).prop_map(|(input, changes)| {
            changes.into_iter().fold(input, |mut input, change| {
                change.make(&mut input);
                input
            })
        });
    // An input that fails belongs in the corpus, not in a list of seeds.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let config = ProptestConfig { cases: times * config.cases, ..config };
    let tried = TestRunner::new(config).run(&varied, |input| {
        if holds(&input) { Ok(()) } else { Err(TestCaseError::fail("the target panicked (see above)")) }
    });
    if let Err(error) = tried {
        panic!("{}: {error}", corpus.display());
    }
}
