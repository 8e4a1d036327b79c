//! An error an operator can act on: what failed, what to do next, and the exit code it deserves.

use std::fmt;

use alloy_primitives::TxHash;
use serde::Serialize;

use crate::render::{ToRepeat, pasteable};

/// Exit code of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code of `status`, `peers`, `why` and `wait` when no agent answers.
pub(crate) const AGENT_NOT_RUNNING: u8 = 3;
/// Exit code of a mistake in the command line (`EX_USAGE` of sysexits.h).
pub(crate) const USAGE: u8 = 64;

/// Attached to an [`anyhow::Error`] as its context, or an error of its own; `main` prints it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    exit_code: u8,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None, exit_code: FAILED }
    }

    /// A mistake in how the command was called.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { exit_code: USAGE, ..Self::new(what) }
    }

    /// The one next step, printed on a line of its own.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// What failed, with its causes, and the next step if there is one.
pub(crate) fn parts(error: &anyhow::Error) -> (String, Option<String>) {
    let failure = error.downcast_ref::<Failure>();
    (format!("{error:#}"), failure.and_then(|failure| failure.hint.clone()))
}

/// The lines for stderr and the exit code of an error that ends the program. Further lines of either text are indented: what
/// others wrote into an error cannot look like a hint of ours.
/// Commands that the hint suggests get the options `to_repeat`.
pub(crate) fn report(error: &anyhow::Error, to_repeat: &ToRepeat) -> (String, u8) {
    let (what, hint) = parts(error);
    let indented = |text: &str| text.trim_end().replace('\n', "\n  ");
    let mut text = format!("error: {}\n", indented(&what));
    if let Some(hint) = hint.map(|hint| pasteable(&hint, to_repeat)) {
        text.push_str(&format!("hint: {}\n", indented(&hint)));
    }
    (text, exit_code(error))
}

/// The exit code of an error that ends the program.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(FAILED, |failure| failure.exit_code)
}

/// A failure as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    schema: &'static str,
    error: String,
    hint: Option<String>,
    exit_code: u8,
    /// What this run had sent before it failed, and what succeeded.
    transactions: Vec<TxHash>,
}

/// What [`report`] says, for scripts; and the transactions that succeeded before.
pub(crate) fn document(error: &anyhow::Error, to_repeat: &ToRepeat, transactions: &[TxHash]) -> Document {
    let (what, hint) = parts(error);
    let hint = hint.map(|hint| pasteable(&hint, to_repeat));
    let transactions = transactions.to_vec();
    Document { schema: "meshctl.error/v1", error: what, hint, exit_code: exit_code(error), transactions }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn hint_and_exit_code_survive_further_context() {
        let inner: Result<(), _> = Err(Failure::new("cannot read `x`").hint("make it readable").exit_code(9));
        let error = inner.context("deploying").unwrap_err();
        assert_eq!(
            report(&error, &ToRepeat::default()),
            ("error: deploying: cannot read `x`\nhint: make it readable\n".to_owned(), 9)
        );
    }

    #[test]
    fn a_failure_used_as_context_keeps_its_cause() {
        let inner: Result<(), _> = Err(anyhow::anyhow!("no such file"));
        let error = inner.context(Failure::usage("cannot read `x`").hint("create it")).unwrap_err();
        assert_eq!(
            report(&error, &ToRepeat::default()),
            ("error: cannot read `x`: no such file\nhint: create it\n".to_owned(), USAGE)
        );
    }

    #[test]
    fn further_lines_cannot_pass_for_a_hint() {
        let (text, _) = report(&anyhow::anyhow!("one\nhint: two\n"), &ToRepeat::default());
        assert_eq!(text, "error: one\n  hint: two\n");
    }
}
