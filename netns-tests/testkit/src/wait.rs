//! Waiting: poll until something is there or a deadline is over.

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

/// Makes every wait in this process fail soon, as after Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Polls until `look` succeeds, and returns its result with the time it took. `look` says with an error what it saw instead.
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

/// Reads again after an interruption (`EINTR`), which a process gets that was stopped in a read with a time limit and goes on.
pub fn uninterrupted<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
