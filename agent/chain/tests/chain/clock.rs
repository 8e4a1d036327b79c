//! A clock that stands still when the machine does. The tests of streams and paths, and of the gateway in `simulator`, include this
//! file too.

use std::{convert::Infallible, sync::mpsc, thread, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{advance, pause},
};

const TICK: Duration = Duration::from_millis(1);

/// A clock that runs like any other while this process gets processor time, and stands still while it does not: deadlines are those
/// of the product, and none is missed because another process had the processor. Runs until it is dropped, in a runtime with one
/// thread.
#[must_use]
pub(crate) struct SteadyClock {
    _ticks: JoinSet<Infallible>,
    _held: mpsc::Sender<()>,
}

impl SteadyClock {
    pub(crate) fn start() -> Self {
        pause();
        // Or tokio would run ahead of sockets whenever every task waits.
        let (held, dropped) = mpsc::channel::<()>();
        spawn_blocking(move || dropped.recv());
        let mut ticks = JoinSet::new();
        ticks.spawn(async {
            loop {
                spawn_blocking(|| thread::sleep(TICK)).await.unwrap();
                advance(TICK).await;
            }
        });
        Self { _ticks: ticks, _held: held }
    }
}
