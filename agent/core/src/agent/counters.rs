//! What has been done since the start, for metrics.

use std::{collections::BTreeMap, time::Duration};

use crate::{diff::Change, id::TokenId, status::PathKind};

/// Counts since the start of the process. All only grow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Changes made, by [`Change::kind`].
    pub changes: BTreeMap<&'static str, u64>,
    /// Rounds of changes that failed.
    pub changes_failed: u64,
    /// Reads of the contract that became the view.
    pub reads_accepted: u64,
    /// Reads that were held back for a second one.
    pub reads_held: u64,
    /// Reads refused as implausible.
    pub reads_refused: u64,
    /// Reads without agreement.
    pub reads_failed: u64,
    /// Proofs that proved a peer.
    pub proofs_verified: u64,
    /// Proofs that did not.
    pub proofs_refused: u64,
    /// Datagrams with news or a question that were sent to peers.
    pub news_sent: u64,
    /// News of peers that was signed by them, and newer than what was known.
    pub news_heard: u64,
    /// Datagrams of peers that were malformed, forged, or for another mesh.
    pub news_refused: u64,
    /// How often packets to a peer took another path: whose, from, to, and what was wrong with the first (`recovered` where the
    /// other is better and works again).
    pub path_switches: BTreeMap<(TokenId, PathKind, PathKind, &'static str), u64>,
    /// From an accepted read that changed something to a machine that matches it.
    pub apply_times: Histogram,
}

/// The reason of a return to a better path.
pub(super) const NOTHING_WRONG: &str = "recovered";

impl Counters {
    pub(super) fn add_changes(&mut self, changes: &[Change]) {
        for change in changes {
            *self.changes.entry(change.kind()).or_default() += 1;
        }
    }
}

/// Upper bounds of a [`Histogram`]'s buckets, seconds; one more bucket has none.
pub const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Durations by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Number within each bound of [`BUCKETS`], not cumulative; the last is above them all.
    pub counts: [u64; BUCKETS.len() + 1],
    /// Seconds.
    pub sum: f64,
}

impl Histogram {
    /// All of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn record(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += seconds;
    }
}
