//! Handshakes from the network. They have sockets and a thread of their own, so that no packet of a session waits behind them: neither
//! in a socket, nor for a thread. This one takes a share of a core at most; what is more than it can read the kernel drops. Responses,
//! which it reads first, have sockets apart from initiations: so the sessions that this device renews go on in any flood of those.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mesh_offload::Merge;

use crate::device::Shared;
use crate::inbound::Inbound;
use crate::sys;
use crate::udp::ReceiveBuffer;

/// The sockets: for responses and for initiations, of IPv4, and of IPv6 where there is one.
const SOCKETS: usize = 4;

/// What this thread rests for each unit of time that it works: then it takes two fifths of a core. So much is needed to send a
/// cookie to each of 56,000 hosts a second.
const REST: f64 = 1.5;

/// Work for which it does not have to rest at once: a thousand nodes that start at the same time are let in without a pause.
const SPARED: Duration = Duration::from_millis(250);

/// Work between two rests after that. The shorter it is, the less waits in the sockets meanwhile.
const TURN: Duration = Duration::from_millis(10);

/// Runs until the device ends.
pub(crate) fn run(shared: &Shared) {
    let offloads = shared.inner.offloads_in_use();
    let (mut merge, mut buffer) = (Merge::of_few(offloads.tun_tso, offloads.tun_uso), ReceiveBuffer::new());
    let mut inbound = Inbound::new(shared, 0, &mut merge);
    let (wake, mut pace) = (&shared.wake_handshakes, Pace::new(Instant::now()));
    while !shared.is_stopping() {
        let sockets = shared.sockets();
        let rest = pace.rests_until(Instant::now());
        let mut watched = [sys::UNWATCHED; 1 + SOCKETS];
        watched[0] = sys::watch(&wake.as_fd(), libc::POLLIN);
        if rest.is_none() {
            for (watched, socket) in watched[1..=SOCKETS].iter_mut().zip(sockets.handshakes()) {
                *watched = sys::watch(socket, libc::POLLIN);
            }
        }
        if let Err(error) = sys::wait_until(&mut watched, rest) {
            tracing::error!(%error, "could not wait for handshakes");
            return;
        }
        if watched[0].revents != 0 {
            wake.clear();
            continue;
        }
        let before = sys::thread_time();
        for (socket, watched) in sockets.handshakes().zip(&watched[1..]) {
            if watched.revents != 0 {
                inbound.take_batches(socket, &mut buffer);
            }
        }
        pace.worked(sys::thread_time().saturating_sub(before), Instant::now());
    }
}

/// How much of the time is spent at work.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the work until now has been rested for.
    rested: Instant,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { rested: now }
    }

    /// It worked for so long until now. While others had the processor it rested.
    fn worked(&mut self, took: Duration, now: Instant) {
        let began = now.checked_sub(took).unwrap_or(now);
        self.rested = self.rested.max(began) + took + took.mul_f64(REST);
    }

    /// Until when to rest, if it is time for it.
    fn rests_until(&self, now: Instant) -> Option<Instant> {
        let spared = SPARED.mul_f64(REST);
        (self.rested > now + spared).then(|| self.rested.checked_sub(spared - TURN.mul_f64(REST)).unwrap_or(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_rests_three_fifths_of_the_time() {
        let start = Instant::now();
        let (mut pace, mut now, mut worked) = (Pace::new(start), start, Duration::ZERO);
        while now < start + 10_000 * MS {
            if let Some(until) = pace.rests_until(now) {
                now = until;
                continue;
            }
            now += MS;
            pace.worked(MS, now);
            worked += MS;
        }
        assert!((4_000 * MS..=4_300 * MS).contains(&worked), "{worked:?}");
    }

    #[test]
    fn few_handshakes_never_wait() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..1000 {
            assert_eq!(pace.rests_until(now), None);
            pace.worked(MS, now + MS);
            now += 3 * MS;
        }
        // Nor do many that come at once after that.
        for _ in 0..250 {
            assert_eq!(pace.rests_until(now), None);
            now += MS;
            pace.worked(MS, now);
        }
        let rest = pace.rests_until(now + MS).map_or(Duration::ZERO, |until| until - now);
        assert!(rest <= 30 * MS, "{rest:?}");
    }
}
