//! A tokio clock for tests over real sockets: it stands still when the machine does, and runs fast when it does not.

use std::{convert::Infallible, sync::mpsc, thread, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{advance, pause},
};

/// Real time between two steps: the kernel carries bytes over loopback in much less.
const TICK: Duration = Duration::from_millis(1);
/// How far the clock goes with each.
const STEP: Duration = Duration::from_millis(10);

/// Ten times as fast as real time while this process gets processor time, and still while it does not: deadlines are those of the
/// product, and none is missed because another process had the processor. Runs until it is dropped, in a runtime with one thread.
#[must_use]
#[derive(Debug)]
pub struct SteadyClock {
    _ticks: JoinSet<Infallible>,
    _held: mpsc::Sender<()>,
}

impl SteadyClock {
    /// Stops tokio's clock and moves it from now on. Panics in a runtime with more than one thread, where no clock can be stopped.
    pub fn start() -> Self {
        pause();
        // Or tokio would run ahead of sockets whenever every task waits.
        let (held, dropped) = mpsc::channel::<()>();
        spawn_blocking(move || dropped.recv());
        let mut ticks = JoinSet::new();
        ticks.spawn(async {
            loop {
                drop(spawn_blocking(|| thread::sleep(TICK)).await);
                advance(STEP).await;
            }
        });
        Self { _ticks: ticks, _held: held }
    }
}
