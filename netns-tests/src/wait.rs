//! Waiting: look, look again, give up at a deadline.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Time between two looks: fine enough to measure the limits, coarse enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait in this process fail soon: somebody pressed Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Looks until `look` gives something, and returns it with the time it took. `look` says with an error what it saw instead.
pub fn wait_until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        let seen = match look() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(seen) => seen,
        };
        if interrupted() {
            bail!("interrupted while waiting for: {what}");
        }
        if start.elapsed() >= deadline {
            bail!("not within {deadline:?}: {what}\nlast seen: {seen:#}");
        }
        thread::sleep(PAUSE);
    }
}

/// Reads with a time limit. Who was stopped there and goes on is told that it was interrupted.
pub fn uninterrupted<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
