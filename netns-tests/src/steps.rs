//! What the demo shows while it works, and how long each step took.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Steps with their durations: a moving line on a terminal, one plain line per step otherwise.
#[derive(Debug, Default)]
pub struct Steps {
    done: Vec<(String, Duration)>,
    silent: bool,
}

impl Steps {
    /// Steps that are not shown.
    #[must_use]
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// Runs one step.
    pub fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.silent {
            return step();
        }
        let start = Instant::now();
        let spinner = Spinner::start(name);
        let result = step();
        drop(spinner);
        let took = start.elapsed();
        let mark = if result.is_ok() { "ok  " } else { "FAIL" };
        line(&format!("{mark}  {:>7}  {name}", seconds(took)));
        self.done.push((name.to_owned(), took));
        result.with_context(|| format!("step failed: {name}"))
    }

    /// All steps so far, in the order they ran.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.done.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let rows = self.done.iter().map(|(name, took)| format!("  {name:<width$}  {:>8}\n", seconds(*took)));
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let rows: String = rows.collect();
        format!("{rows}  {:<width$}  {:>8}\n", "total", seconds(total))
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn line(text: &str) {
    // A closed terminal must not stop the clean-up.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A line that moves while a step runs, only on a terminal.
struct Spinner {
    stop: Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>,
}

impl Spinner {
    fn start(name: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self { stop: None };
        }
        let (stop, stopped) = mpsc::channel();
        let (name, start) = (name.to_owned(), Instant::now());
        let thread = thread::spawn(move || {
            for frame in ["|", "/", "-", "\\"].iter().cycle() {
                let mut stderr = io::stderr();
                let _ = write!(stderr, "\r{frame}     {:>7}  {name}", seconds(start.elapsed()));
                let _ = stderr.flush();
                if stopped.recv_timeout(Duration::from_millis(120)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            let _ = write!(io::stderr(), "\r\x1b[2K");
        });
        Self { stop: Some((stop, thread)) }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.stop.take() {
            drop(stop);
            // The thread only writes to the terminal.
            let _ = thread.join();
        }
    }
}
