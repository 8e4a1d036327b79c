//! Where results go: stdout for data, stderr for everything else.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

use alloy_primitives::TxHash;
use mesh_core::text::is_hostile;
use serde::Serialize;

use crate::{
    failure,
    render::{ToRepeat, pasteable, printable},
};

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set to something.
    Auto,
    Always,
    Never,
}

/// What a command prints with. Commands build text or values with pure functions and hand them over whole.
pub(crate) struct Printer {
    json: bool,
    color: bool,
    terminal: bool,
    /// What suggested commands get: see [`pasteable`].
    to_repeat: ToRepeat,
    /// What was sent in this run and succeeded: a failure after it says so.
    transactions: RefCell<Vec<TxHash>>,
}

impl Printer {
    /// `no_color` is the value of the `NO_COLOR` variable.
    pub(crate) fn new(json: bool, color: ColorChoice, no_color: Option<&str>) -> Self {
        let terminal = io::stdout().is_terminal();
        let color = match color {
            ColorChoice::Auto => terminal && no_color.is_none_or(str::is_empty),
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self { json, color, terminal, to_repeat: ToRepeat::default(), transactions: RefCell::default() }
    }

    /// The same; commands that it suggests get these options.
    pub(crate) fn repeating(self, options: ToRepeat) -> Self {
        Self { to_repeat: options, ..self }
    }

    /// Text whose suggested commands can be pasted.
    pub(crate) fn pasteable(&self, text: &str) -> String {
        pasteable(text, &self.to_repeat)
    }

    /// A transaction of this run is in a block, and succeeded.
    pub(crate) fn sent(&self, transaction: TxHash) {
        self.transactions.borrow_mut().push(transaction);
    }

    /// Ends the program with an error: in words on stderr, with `--json` also on stdout, which holds nothing else then. The exit code.
    pub(crate) fn fail(&self, error: &anyhow::Error) -> u8 {
        let (text, code) = failure::report(error, &self.to_repeat);
        warn(&printable(&text));
        if self.json {
            // Stdout may be closed: the exit code says it too.
            let _ = self.value(&failure::document(error, &self.to_repeat, &self.transactions.borrow()));
        }
        code
    }

    /// `--json` was given.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// Text may carry colour.
    pub(crate) const fn color(&self) -> bool {
        self.color
    }

    /// Stdout is a terminal: it can be redrawn.
    pub(crate) const fn terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a result: `value` as JSON with `--json`, else the text. The text ends with a line feed of its own.
    pub(crate) fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json { self.value(value) } else { self.text(&self.pasteable(&text())) }
    }

    /// Prints one JSON document over several lines.
    pub(crate) fn value(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.text(&(disarmed(&serde_json::to_string_pretty(value)?) + "\n"))
    }

    /// Prints one JSON document on one line, for streams.
    pub(crate) fn line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.text(&(disarmed(&serde_json::to_string(value)?) + "\n"))
    }

    /// Prints text as it is: the caller made it [`printable`].
    pub(crate) fn text(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // The reader has seen enough (`meshctl nodes | head`): not our failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => Ok(done?),
        }
    }

    /// Says what is happening, on stderr.
    pub(crate) fn note(&self, message: impl fmt::Display) {
        warn(&printable(&format!("{message}\n")));
    }
}

/// JSON that means the same and is safe for a terminal: characters above ASCII stand in its strings alone, where an escape may take
/// their place.
fn disarmed(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if !c.is_ascii_control() && is_hostile(c) {
            safe.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Writes to stderr. A failure of that cannot be reported anywhere.
pub(crate) fn warn(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_safe_for_a_terminal_and_means_the_same() {
        let hostile = "a\u{9b}2J\u{202e}\u{e0041}\x1b[2J\n\u{7f}größe";
        let json = disarmed(&serde_json::to_string_pretty(&[hostile]).unwrap());
        assert!(!json.chars().any(|c| is_hostile(c) && c != '\n' && c != '\u{7f}'), "{json:?}");
        assert!(json.contains("\\u009b2J\\u202e\\udb40\\udc41"), "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [hostile]);
    }
}
