//! The current step, the progress and the remaining time, on standard error: a bar on a terminal, lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The bar.
pub(crate) struct Progress {
    bar: ProgressBar,
    steps: u64,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Self {
        let steps = steps as u64;
        let bar = ProgressBar::new(steps);
        let template = ProgressStyle::with_template("{bar:24} {pos:>3}/{len} {elapsed} gone, about {eta} left  {msg}");
        bar.set_style(template.unwrap_or_else(|_| ProgressStyle::default_bar()));
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        Self { bar, steps }
    }

    /// A step begins.
    pub(crate) fn begin(&self, what: &str) {
        if self.bar.is_hidden() {
            say(&format!("{:>3}/{} {what}", self.bar.position() + 1, self.steps));
        }
        self.bar.set_message(what.to_owned());
    }

    /// The step that began last has ended.
    pub(crate) fn end(&self) {
        self.bar.inc(1);
    }

    /// Prints a message that must not be overlooked.
    pub(crate) fn warn(&self, text: &str) {
        self.bar.suspend(|| say(&format!("WARNING: {text}")));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line on standard error.
#[expect(clippy::print_stderr, reason = "a program prints its progress")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
