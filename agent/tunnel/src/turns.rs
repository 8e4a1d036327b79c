//! Turns at handshakes that nobody waits for.
//!
//! A peer is spoken to when it is added and when its keepalive is due, whether or not there is a packet for it. Of
//! thousands of peers most may be switched off, and each would cost an initiation every five seconds, which is three
//! multiplications on the curve. So these handshakes take turns. One that a packet waits for, or that renews a session,
//! needs none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The turns of a device.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: AtomicUsize,
    /// Somebody asked in vain, and nobody has got one since.
    wanted: AtomicBool,
}

impl Turns {
    /// Peers that answer do so within a round trip, so that a thousand of them are met within two.
    pub(crate) const AT_A_TIME: usize = 512;

    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { free: AtomicUsize::new(Self::AT_A_TIME), wanted: AtomicBool::new(false) }))
    }

    /// Takes a turn, if there is one.
    pub(crate) fn take(&self) -> Option<Turn> {
        let taken = self.0.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok();
        self.0.wanted.store(!taken, Ordering::Relaxed);
        taken.then(|| Turn(Arc::clone(&self.0)))
    }

    /// Whether whoever has had a turn for long should let others have it.
    pub(crate) fn are_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }
}

/// A peer's turn, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Inner>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_free_again_when_it_was_dropped() {
        let turns = Turns::new();
        let mut taken: Vec<Turn> = (0..Turns::AT_A_TIME).map(|_| turns.take().unwrap()).collect();
        assert!(!turns.are_wanted());
        assert!(turns.take().is_none() && turns.are_wanted());
        taken.pop();
        assert!(turns.are_wanted(), "nobody has got it yet");
        assert!(turns.take().is_some() && !turns.are_wanted());
        drop(taken);
        assert_eq!(turns.0.free.load(Ordering::Relaxed), Turns::AT_A_TIME);
    }
}
