//! How long the tests wait: for machines that are slow, busy with other work, or stall for some seconds.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than any step takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// The interval of the beats by which a stall of the machine is noticed.
const BEAT: Duration = Duration::from_millis(5);

/// A beat that is this late shows that the machine stalled in between.
const STANDSTILL: Duration = Duration::from_millis(100);

/// Calls `look` until it returns a value.
#[track_caller]
pub(crate) fn eventually<T>(what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits on a socket with a time limit, again after an interruption: a process that was stopped and continued gets one.
pub(crate) fn uninterrupted<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A flag that is set when it is dropped, also by a panic, so that threads that wait for it end.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Watches for stalls of the machine until it is asked for them.
pub(crate) struct Watch {
    began: Instant,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut last) = (Arc::clone(&stop), Instant::now());
        let thread = thread::spawn(move || {
            let mut standstills = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(BEAT);
                if last.elapsed() >= STANDSTILL {
                    standstills.push(last.elapsed());
                }
                last = Instant::now();
            }
            standstills
        });
        Self { began: Instant::now(), stop, thread }
    }

    /// How long the machine ran since the beginning, and its longest stall.
    pub(crate) fn end(self) -> (Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let standstills = self.thread.join().unwrap();
        let took = self.began.elapsed().saturating_sub(standstills.iter().sum());
        (took, standstills.into_iter().max().unwrap_or_default())
    }
}
