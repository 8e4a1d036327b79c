//! What must hold, worked out without the code under test.

use std::collections::{BTreeMap, BTreeSet};

use counter_core::{ClientId, Counted, Entry, Log, Operation};

/// The entries that some node has ever counted. None is ever another afterwards.
#[derive(Default)]
pub(crate) struct Oracle {
    entries: Vec<Entry>,
}

impl Oracle {
    /// Compares what a node counts, after the first `seen` of it, with what others counted.
    pub(crate) fn counted(&mut self, log: &Log, seen: u64, counted: u64, who: &str) {
        for index in seen + 1..=counted {
            let entry = log.get(index).expect("a counted entry is in the log");
            match self.entries.get(usize::try_from(index).unwrap() - 1) {
                Some(known) => assert_eq!(known, entry, "{who} counts another entry {index}"),
                None => {
                    assert_eq!(self.entries.len() as u64 + 1, index);
                    self.entries.push(entry.clone());
                }
            }
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Each acknowledged increment is in the log that counts, once, and its client was told the right count. Returns the count.
    pub(crate) fn check(&self, acknowledged: &[(ClientId, Counted)]) -> u64 {
        let mut values: BTreeMap<(&ClientId, u64), u64> = BTreeMap::new();
        for entry in &self.entries {
            if let Operation::Increment(increment) = &entry.operation {
                let value = values.len() as u64 + 1;
                values.entry((&increment.client, increment.request)).or_insert(value);
            }
        }
        let mut told = BTreeSet::new();
        for (client, counted) in acknowledged {
            let value = values.get(&(client, counted.request));
            assert_eq!(value, Some(&counted.value), "{client:?} was told {counted:?}");
            assert!(told.insert(counted.value), "two increments made the count {}", counted.value);
        }
        values.len() as u64
    }
}

/// Two logs that agree in the term at an index agree in all up to there.
pub(crate) fn agree(one: &[Entry], other: &[Entry]) {
    let Some(last) = one.iter().zip(other).rposition(|(a, b)| a.term == b.term) else { return };
    assert_eq!(one[..=last], other[..=last]);
}

/// The increments in `entries`, each counted once.
pub(crate) fn distinct(entries: &[Entry]) -> u64 {
    let increments = entries.iter().filter_map(|entry| match &entry.operation {
        Operation::Increment(increment) => Some((&increment.client, increment.request)),
        Operation::Begin | Operation::Members(_) => None,
    });
    increments.collect::<BTreeSet<_>>().len() as u64
}
