//! How long the tests wait: on a machine that is slow, that others use as well, or that stands still for some seconds.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy with other work.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// How often the machine is looked at.
const BEAT: Duration = Duration::from_millis(5);

/// A beat that comes this late says that nobody was served in between.
const STANDSTILL: Duration = Duration::from_millis(100);

/// Waits until `look` finds something.
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

/// Waits in a socket with a time limit. One that was stopped there and goes on is told that it was interrupted.
pub(crate) fn uninterrupted<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Set when it is dropped, also by a panic: whoever waits for it ends.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at the machine until it is asked how long that stood still.
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

    /// How long the machine ran since the beginning, and the longest time for which it did not.
    pub(crate) fn end(self) -> (Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let standstills = self.thread.join().unwrap();
        let took = self.began.elapsed().saturating_sub(standstills.iter().sum());
        (took, standstills.into_iter().max().unwrap_or_default())
    }
}
