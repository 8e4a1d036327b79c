//! The device's clock, which goes on while the machine is suspended, as its peers' clocks do: a session that was left alone for three
//! minutes is over at the other end. [`Instant::now`] stands still meanwhile (`CLOCK_MONOTONIC`).
#![expect(
    unsafe_code,
    reason = "the standard library reads no such clock, and has no timer that ends when the clock is set"
)]

use std::fs::File;
use std::io::{self, Read as _};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys;

/// The time, for everything that peers, sessions and timers are told. It is ahead of [`Instant::now`] by as long as the machine was
/// suspended since this was first called, so the two are not to be compared. It costs the same: no system call is made for either.
pub(crate) fn now() -> Instant {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    // No kernel of today lacks that clock.
    let Ok(since_boot) = since_boot() else { return Instant::now() };
    ORIGIN.get_or_init(|| Origin { instant: Instant::now(), since_boot }).at(since_boot)
}

/// One moment by both clocks.
struct Origin {
    instant: Instant,
    since_boot: Duration,
}

impl Origin {
    /// What stands for that time since the machine was started, the time in which it was suspended included.
    fn at(&self, since_boot: Duration) -> Instant {
        self.instant + since_boot.saturating_sub(self.since_boot)
    }
}

/// `CLOCK_BOOTTIME`.
fn since_boot() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value, which the call fills.
    sys::check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) })?;
    // Neither is negative, and the nanoseconds are less than a second.
    Ok(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
}

/// Tells when the machine has resumed: a thread that sleeps until something is due sleeps by a clock that stood still. It also tells
/// when another program has set the time of day, which is no harm.
#[derive(Debug)]
pub(crate) struct Resumptions(File);

impl Resumptions {
    pub(crate) fn watch() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let timer: OwnedFd =
            sys::own(unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
        // SAFETY: plain data for which all zeros are valid.
        let mut at: libc::itimerspec = unsafe { mem::zeroed() };
        // The timer's own time never comes.
        at.it_value.tv_sec = i64::MAX;
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the pointer is to a live value; where the former setting would go, there may be none.
        sys::check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), flags, &raw const at, std::ptr::null_mut()) })?;
        Ok(Self(timer.into()))
    }

    /// Forgets the last; it is readable again after the next.
    pub(crate) fn clear(&self) {
        // What it says is known: `ECANCELED`.
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsRawFd for Resumptions {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_time_in_which_the_machine_was_suspended_has_passed() {
        let instant = Instant::now();
        let origin = Origin { instant, since_boot: 1000 * S };
        assert_eq!(origin.at(1000 * S), instant);
        // Of these, the other clock saw ten.
        assert_eq!(origin.at(1210 * S), instant + 210 * S);
        assert_eq!(origin.at(999 * S), instant, "two threads may read in another order than they compare");
    }

    #[test]
    fn it_reads_the_clock_that_goes_on_and_never_goes_back() {
        let (before, first) = (since_boot().unwrap(), now());
        let (between, second) = (since_boot().unwrap(), now());
        let after = since_boot().unwrap();
        assert!(second - first <= after - before && second >= first, "{:?}", second - first);
        assert!(before <= between && between <= after);
        // Seconds since the start of the machine, suspended ones included, which the kernel shows from this very clock.
        let shown = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = shown.split(' ').next().unwrap().parse().unwrap();
        let read = since_boot().unwrap();
        assert!(before.as_secs_f64() - 0.02 <= uptime && uptime <= read.as_secs_f64(), "{before:?} {uptime} {read:?}");
    }

    #[test]
    fn nothing_resumes_by_itself() {
        let resumptions = Resumptions::watch().unwrap();
        let mut watched = [sys::watch(&resumptions, libc::POLLIN)];
        sys::wait_until(&mut watched, Some(Instant::now())).unwrap();
        assert_eq!(watched[0].revents, 0);
        resumptions.clear();
    }
}
