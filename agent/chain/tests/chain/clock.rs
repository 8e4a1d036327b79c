//! A clock that stands still when the machine does. The tests of streams and paths, and of the gateway in `simulator`, include this
//! file too.

use std::{convert::Infallible, sync::mpsc, thread, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{advance, pause},
};

const TICK: Duration = Duration::from_millis(1);

/// A clock that passes as any other does while everybody gets on with what there is to do, and stands still while the machine
/// does: deadlines and graces are those of the product, and none is missed because the processor was somebody else's. Runs
/// until it is dropped, in a runtime with one thread.
#[must_use]
pub(crate) struct SteadyClock {
    _ticks: JoinSet<Infallible>,
    _held: mpsc::Sender<()>,
}

impl SteadyClock {
    pub(crate) fn start() -> Self {
        pause();
        // Or tokio would run ahead of sockets whenever nobody has anything to do but to wait.
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
