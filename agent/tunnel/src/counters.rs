//! What is counted of packets that were thrown away.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Drops;

/// Names of the counters in [`Drops`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    NoPeer,
    Unsendable,
    Unauthenticated,
    UnderLoad,
    SourceRefused,
    IoFailed,
}

/// Counts packets that were thrown away.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; 6]);

impl Counters {
    pub(crate) fn add(&self, counter: Counter) {
        self.add_many(counter, 1);
    }

    pub(crate) fn add_many(&self, counter: Counter, count: u64) {
        self.0[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Drops {
        let of = |counter: Counter| self.0[counter as usize].load(Ordering::Relaxed);
        Drops {
            no_peer: of(Counter::NoPeer),
            unsendable: of(Counter::Unsendable),
            unauthenticated: of(Counter::Unauthenticated),
            under_load: of(Counter::UnderLoad),
            source_refused: of(Counter::SourceRefused),
            io_failed: of(Counter::IoFailed),
        }
    }
}
