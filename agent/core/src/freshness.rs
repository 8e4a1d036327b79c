//! How long a view of the contract may be used. An attacker who controls the network can freeze the chain for one node: then its
//! view ages here, first to *stale* (not ready, still working), then to *expired* (the operator's [`OnExpiry`]). A chain that
//! stands still is different, as far as several sources agree that it does: then a longer deadline counts.

use std::time::Duration;

use crate::{
    agent::{Now, OnExpiry},
    id::BlockRef,
};

/// The last agreed read may be this old.
pub const FRESH_READ: Duration = Duration::from_secs(30);
/// The block it was read at may be this old.
pub const FRESH_BLOCK: Duration = Duration::from_secs(120);
/// The development chain (anvil), which makes blocks only when it has transactions: block age means nothing there.
pub const DEVELOPMENT_CHAIN: u64 = 31337;

/// The operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Age of the last agreed read, and of its block, at which a view expires.
    pub registry: Duration,
    /// Age of the block instead, while several sources agree that there is no newer one and none names one; never less than
    /// `registry`.
    pub halt: Duration,
}

impl Deadlines {
    /// How old the newest block may get.
    fn of_head(self, witnesses: Witnesses) -> Duration {
        match witnesses {
            Witnesses::One | Witnesses::Several => self.registry.max(FRESH_BLOCK),
            Witnesses::All => self.registry.max(self.halt).max(FRESH_BLOCK),
        }
    }
}

/// Which sources say that there is no newer block than that of the read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Witnesses {
    /// A single one: it may hide blocks.
    #[default]
    One,
    /// Several, and another contradicts them or names a newer block.
    Several,
    /// Several, and no other says anything else.
    All,
}

/// When a view was made, on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadTime {
    noted_at: Duration,
    age_then: Duration,
    head: BlockRef,
    /// When the height was first seen to be at least this, so that setting the wall clock back does not make a frozen chain
    /// look young.
    head_since: Duration,
    chain_id: u64,
    witnesses: Witnesses,
}

/// How old a view is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Good to act on.
    Fresh,
    /// Too old to be ready; with what is old and how old it is.
    Stale(Old, Duration),
    /// Past the operator's deadline.
    Expired(Old, Duration),
}

/// What is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// The last agreed read.
    Read,
    /// The head of the chain.
    Head,
}

impl ReadTime {
    /// A read made just now, after `previous`.
    #[must_use]
    pub fn now(head: BlockRef, chain_id: u64, previous: Option<&Self>, now: Now) -> Self {
        let head_since = match previous {
            Some(previous) if previous.head.number >= head.number => previous.head_since,
            _ => now.since_start,
        };
        Self {
            noted_at: now.since_start,
            age_then: Duration::ZERO,
            head,
            head_since,
            chain_id,
            witnesses: Witnesses::One,
        }
    }

    /// The same, from these sources: where several agree, an old head means that the chain stands still, and not that its blocks are
    /// hidden.
    #[must_use]
    pub const fn witnessed(self, witnesses: Witnesses) -> Self {
        Self { witnesses, ..self }
    }

    const fn is_witnessed(&self) -> bool {
        !matches!(self.witnesses, Witnesses::One)
    }

    /// How long the chain has stood still, as several sources say.
    #[must_use]
    pub fn standing_for(&self, now: Now) -> Option<Duration> {
        Some(self.head_age(now)).filter(|age| self.is_witnessed() && *age > FRESH_BLOCK)
    }

    /// A read of an earlier run, made at this Unix time. A clock set back in between makes it look young, but never for longer
    /// than the deadline counts from this start.
    #[must_use]
    pub fn of_earlier_run(head: BlockRef, chain_id: u64, read_at: Duration, now: Now) -> Self {
        let age_then = now.unix.saturating_sub(read_at);
        Self {
            noted_at: now.since_start,
            age_then,
            head,
            head_since: now.since_start,
            chain_id,
            witnesses: Witnesses::One,
        }
    }

    /// Time since the read.
    #[must_use]
    pub fn read_age(&self, now: Now) -> Duration {
        now.since_start.saturating_sub(self.noted_at) + self.age_then
    }

    /// Time since the head's timestamp, or since the head last moved where that is longer; zero on the development chain.
    #[must_use]
    pub fn head_age(&self, now: Now) -> Duration {
        if self.chain_id == DEVELOPMENT_CHAIN {
            return Duration::ZERO;
        }
        let by_timestamp = now.unix.saturating_sub(Duration::from_secs(self.head.timestamp));
        let standing = now.since_start.saturating_sub(self.head_since);
        by_timestamp.max(standing)
    }

    /// Judges the view.
    #[must_use]
    pub fn age(&self, deadlines: Deadlines, now: Now) -> Age {
        let (read, head) = (self.read_age(now), self.head_age(now));
        if read > deadlines.registry {
            Age::Expired(Old::Read, read)
        } else if head > deadlines.of_head(self.witnesses) {
            Age::Expired(Old::Head, head)
        } else if read > FRESH_READ {
            Age::Stale(Old::Read, read)
        } else if head > FRESH_BLOCK && !self.is_witnessed() {
            Age::Stale(Old::Head, head)
        } else {
            Age::Fresh
        }
    }

    /// Time until the view expires; zero when it has.
    #[must_use]
    pub fn until_expiry(&self, deadlines: Deadlines, now: Now) -> Duration {
        let by_read = deadlines.registry.saturating_sub(self.read_age(now));
        if self.chain_id == DEVELOPMENT_CHAIN {
            return by_read;
        }
        by_read.min(deadlines.of_head(self.witnesses).saturating_sub(self.head_age(now)))
    }

    /// Time until [`ReadTime::age`] changes by itself, if it will; a millisecond past the limit, because limits are inclusive.
    #[must_use]
    pub fn until_change(&self, deadlines: Deadlines, now: Now) -> Option<Duration> {
        let tick = Duration::from_millis(1);
        match self.age(deadlines, now) {
            Age::Fresh => {
                let read = FRESH_READ.saturating_sub(self.read_age(now));
                let head = FRESH_BLOCK.saturating_sub(self.head_age(now));
                let is_head_of_no_matter = self.chain_id == DEVELOPMENT_CHAIN || self.is_witnessed();
                let soonest = if is_head_of_no_matter { read } else { read.min(head) };
                Some(soonest.min(self.until_expiry(deadlines, now)) + tick)
            }
            Age::Stale(..) => Some(self.until_expiry(deadlines, now) + tick),
            Age::Expired(..) => None,
        }
    }
}

impl OnExpiry {
    /// Whether a view of this age must not be acted on any more.
    #[must_use]
    pub const fn closes(self, age: Age) -> bool {
        matches!((self, age), (Self::FailClosed, Age::Expired(..)))
    }

    /// Its name in configuration and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FailClosed => "fail-closed",
            Self::Static => "static",
        }
    }
}
