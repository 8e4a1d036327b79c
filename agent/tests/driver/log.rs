//! Where a test reads what its thread has logged. There is one logger for the process: with one for each thread, what is logged first by
//! a thread without one is logged by none.

use std::{cell::RefCell, io, sync::Once};

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Begins to log, where no other test has.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| ThisThread).init());
    LINES.take();
}

/// What this thread has logged since.
pub(crate) fn text() -> String {
    LINES.with_borrow(|lines| String::from_utf8_lossy(lines).into_owned())
}

struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
