//! What a front has done since its start.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// One front's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrontCounts {
    /// Connections of members that are open now.
    pub open: u64,
    /// Connections of members that were let in.
    pub accepted: u64,
    /// Ended before or in the handshake: no TLS 1.3, no certificate, a key without its certificate, or the caller went away.
    pub failed_handshakes: u64,
    /// The handshake took too long, or was the oldest of too many.
    pub slow_handshakes: u64,
    /// The key of no member.
    pub not_members: u64,
    /// More connections than are allowed, of one member or of all.
    pub too_many: u64,
    /// Ended because the member may not talk any more.
    pub cut_off: u64,
    /// The application on this machine did not accept the connection.
    pub target_failed: u64,
    /// Whether the application did not accept the last connection.
    pub is_target_down: bool,
}

/// The live numbers of one front.
#[derive(Debug, Default)]
pub struct Counts {
    pub(crate) open: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
    pub(crate) slow_handshakes: AtomicU64,
    pub(crate) not_members: AtomicU64,
    pub(crate) too_many: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) target_failed: AtomicU64,
    pub(crate) is_target_down: AtomicBool,
}

impl Counts {
    /// As they are now.
    #[must_use]
    pub fn now(&self) -> FrontCounts {
        FrontCounts {
            open: self.open.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            failed_handshakes: self.failed_handshakes.load(Relaxed),
            slow_handshakes: self.slow_handshakes.load(Relaxed),
            not_members: self.not_members.load(Relaxed),
            too_many: self.too_many.load(Relaxed),
            cut_off: self.cut_off.load(Relaxed),
            target_failed: self.target_failed.load(Relaxed),
            is_target_down: self.is_target_down.load(Relaxed),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Counts a connection as open for as long as it lives.
pub(crate) struct Open<'a>(&'a Counts);

impl<'a> Open<'a> {
    pub(crate) fn new(counts: &'a Counts) -> Self {
        count(&counts.open);
        count(&counts.accepted);
        Self(counts)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
