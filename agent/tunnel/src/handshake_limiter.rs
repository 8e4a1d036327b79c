//! The limit of handshakes under way that no packet waits for.
//!
//! A peer with a keepalive is initiated with when it is added and when that is due, whether or not there is a packet for it. Of
//! thousands of peers most may be switched off, and each would cost an initiation every five seconds, which is three
//! multiplications on the curve. So these handshakes need a permit. A handshake that a packet waits for, or that renews a
//! session, needs none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The permits of a device.
#[derive(Debug)]
pub(crate) struct HandshakeLimiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: AtomicUsize,
    /// A peer was refused a permit, and no peer has got one since.
    contended: AtomicBool,
}

impl HandshakeLimiter {
    /// Peers that answer do so within a round trip, so that a thousand of them are done within two.
    pub(crate) const PERMITS: usize = 512;

    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { free: AtomicUsize::new(Self::PERMITS), contended: AtomicBool::new(false) }))
    }

    /// Takes a permit, if one is free.
    pub(crate) fn try_acquire(&self) -> Option<HandshakePermit> {
        let taken = self.0.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok();
        self.0.contended.store(!taken, Ordering::Relaxed);
        taken.then(|| HandshakePermit(Arc::clone(&self.0)))
    }

    /// Whether a peer that has held its permit for long should give it up to others.
    pub(crate) fn is_contended(&self) -> bool {
        self.0.contended.load(Ordering::Relaxed)
    }
}

/// A peer's permit, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit(Arc<Inner>);

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_is_free_again() {
        let limiter = HandshakeLimiter::new();
        let mut taken: Vec<HandshakePermit> =
            (0..HandshakeLimiter::PERMITS).map(|_| limiter.try_acquire().unwrap()).collect();
        assert!(!limiter.is_contended());
        assert!(limiter.try_acquire().is_none() && limiter.is_contended());
        taken.pop();
        assert!(limiter.is_contended(), "no peer has got it yet");
        assert!(limiter.try_acquire().is_some() && !limiter.is_contended());
        drop(taken);
        assert_eq!(limiter.0.free.load(Ordering::Relaxed), HandshakeLimiter::PERMITS);
    }
}
